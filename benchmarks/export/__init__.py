"""How bundles compare with other ways to make an encoder fast on a CPU: optimum's exports and presets, and OpenVINO."""

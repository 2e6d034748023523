"""How bundles compare with what else makes an encoder fast on a CPU: optimum's exports and presets, and OpenVINO."""

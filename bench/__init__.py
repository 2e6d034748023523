"""Floor 4: measures systems side by side, each in its own process, and reports the results."""

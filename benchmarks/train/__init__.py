"""Training measured beside the loops that people use instead: how fast, how wasteful of padding, and as accurate."""

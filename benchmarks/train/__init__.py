"""Training measured beside the loops that people use instead: speed, padding and accuracy."""

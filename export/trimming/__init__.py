"""Trims a model's vocabulary to the tokens of given texts."""

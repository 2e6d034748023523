"""A model that keeps the tokens of given texts alone."""

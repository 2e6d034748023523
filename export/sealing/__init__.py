"""Writes the bundle folder with its manifest, model card and Triton files, and pushes it to a hub."""

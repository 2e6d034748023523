"""Distillation: a teacher's outputs and token relations, and students cut from larger models."""

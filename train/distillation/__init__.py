"""A teacher and what it teaches; a student, cut from a larger model."""

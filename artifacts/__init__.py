"""Floor 1: recipe, run and bundle on disk: their schema, reading, atomic writing and checks; places; errors."""

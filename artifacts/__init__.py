"""Floor 1: recipes, runs and bundles on disk: schemas, reading, atomic writing and checks; places; errors."""

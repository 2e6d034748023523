"""What is wrong with a recipe: one sentence for each fault, with the key, what was found and what is expected."""

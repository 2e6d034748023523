"""Floor 5: what each rank runs. Data, model, loop, checkpoints; a recipe goes in, a run folder comes out."""

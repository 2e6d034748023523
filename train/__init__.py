"""Floor 5: what each rank runs. A recipe goes in; data, model, loop and checkpoints turn it into a run folder."""

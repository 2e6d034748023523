"""`bertline gather`: converts a DeepSpeed checkpoint, from any program, to a Hugging Face folder."""

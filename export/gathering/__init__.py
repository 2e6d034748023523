"""A DeepSpeed checkpoint, whoever wrote it, becomes a Hugging Face folder: `bertline gather`."""

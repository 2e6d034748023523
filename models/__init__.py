"""Floor 3: a model folder as PyTorch and transformers read it, with which training begins and export compares."""

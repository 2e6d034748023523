"""Floor 3: models and tokenizers as PyTorch and transformers load them, for training and as the reference of export."""

"""What must be true before a bundle exists: answers as PyTorch's, tokens as transformers', here and on other CPUs."""

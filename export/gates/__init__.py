"""Gates that every export must pass: PyTorch's answers and transformers' tokens, here and on other CPUs."""

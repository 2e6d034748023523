"""Floor 3: a bundle answers. Needs numpy, tokenizers and onnxruntime, nothing heavier."""

"""Floor 5: a run or a Hugging Face folder becomes a bundle: convert, fuse, quantize, measure, choose, seal."""

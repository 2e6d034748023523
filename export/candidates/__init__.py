"""The models that there can be of one model: converted, fused, quantized, joined, with fewer tokens."""

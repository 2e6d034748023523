"""The models that there can be of one model: quantized in several ways, or joined with a larger one."""

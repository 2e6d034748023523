"""Makes the candidates of a model: quantized in several ways, or joined with a larger model in a cascade."""

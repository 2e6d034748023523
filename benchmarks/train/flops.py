"""Model FLOP utilization: the share of a GPU's peak throughput that the model's own arithmetic uses.

Aakanksha Chowdhery et al., PaLM (arXiv:2204.02311), appendix B: a token costs 6 N + 12 L H Q T floating point
operations, forward and backward, with N parameters in matrix products, L layers, H heads of size Q (H Q is the hidden
size) and T tokens attended to. Computation on padding does not count.
"""

from collections.abc import Mapping
from typing import Any

PEAKS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H200 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
}
"""Dense bf16 operations per second by part of the GPU's name, from its data sheet; the first match counts."""


def per_token(config: Mapping[str, Any], length: float) -> float:
    """Floating point operations per token of BERT's forward and backward passes.

    Args:
        config: the model's config; an encoder layer has 4 hidden² + 2 hidden · intermediate parameters in matrix
            products. Embeddings are looked up, and the head sees one token per text, so neither counts.
        length: tokens per text; using the mean of varying lengths underestimates attention slightly.
    """
    layers, hidden, intermediate = (
        int(config[name]) for name in ("num_hidden_layers", "hidden_size", "intermediate_size")
    )
    parameters = layers * (4 * hidden**2 + 2 * hidden * intermediate)
    return 6 * parameters + 12 * layers * hidden * length


def peak(gpu: str) -> float | None:
    """Dense bf16 operations per second of a GPU, by its name; None if it is not in PEAKS."""
    return next((peak for part, peak in PEAKS.items() if part in gpu), None)


def utilization(config: Mapping[str, Any], length: float, tokens_per_second: float, gpu: str) -> float | None:
    """The share of the peak; None if the peak is unknown."""
    most = peak(gpu)
    return None if most is None else tokens_per_second * per_token(config, length) / most

"""Model FLOP utilisation: the share of a GPU's peak that the model's own arithmetic makes use of.

Aakanksha Chowdhery et al., PaLM (arXiv:2204.02311), appendix B: a token costs 6 N + 12 L H Q T floating point
operations forward and backward, with N the parameters that are multiplied by, L layers, H heads of size Q (H Q is the
hidden size) and T tokens attended to. What is computed for padding is not the model's.
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
"""Dense bf16 operations a second by a part of the GPU's name, as its data sheet says; the first that fits counts."""


def per_token(config: Mapping[str, Any], length: float) -> float:
    """Floating point operations of a BERT's forward and backward pass for a token.

    Args:
        config: of the model; an encoder layer multiplies by 4 hidden² + 2 hidden · intermediate parameters. Embeddings
            are looked up, and the head sees one token of a text: neither counts.
        length: tokens of a text; the mean of texts that differ counts attention a little low.
    """
    layers, hidden, intermediate = (
        int(config[name]) for name in ("num_hidden_layers", "hidden_size", "intermediate_size")
    )
    parameters = layers * (4 * hidden**2 + 2 * hidden * intermediate)
    return 6 * parameters + 12 * layers * hidden * length


def peak(gpu: str) -> float | None:
    """Dense bf16 operations a second of a GPU, by its name; None where PEAKS does not know it."""
    return next((peak for part, peak in PEAKS.items() if part in gpu), None)


def utilisation(config: Mapping[str, Any], length: float, tokens_per_second: float, gpu: str) -> float | None:
    """The share of the peak; None where that is not known."""
    most = peak(gpu)
    return None if most is None else tokens_per_second * per_token(config, length) / most

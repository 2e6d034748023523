"""Builds candidates: from the fp32 graphs, with calibration texts for fixed scales, one file for each plan."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from bertline.artifacts.bundle import Cascade
from bertline.artifacts.sequences import evenly_spaced
from bertline.artifacts.task import Tokens
from bertline.export.candidates import cascade, sensitivity
from bertline.export.candidates.plans import Plan
from bertline.export.candidates.quantize import quantize
from bertline.export.conversion.graphs import Graph
from bertline.export.sources import Origin
from bertline.tasks.tokens import Batch, Text, Tokenizer

PROBES = 16
"""The number of texts that the sensitivity of layers is measured on."""


class CandidateBuilder:
    """Makes a plan's graph, beside the fp32 graphs that all candidates come from."""

    def __init__(
        self,
        origin: Origin,
        fp32: Graph,
        fused: Graph | None,
        calibration: Sequence[Text],
        count: int,
        asked: Graph | None = None,
    ) -> None:
        """Prepare to build; nothing is made yet.

        Args:
            origin: provides the tokenizer.
            fp32, fused: the fp32 graphs, in the folder that all others are written to; `fused` may be None.
            calibration: texts for fixed scales.
            count: the most of them to use.
            asked: the larger model that cascades ask; None if no plan is a cascade.
        """
        self.origin, self.fp32, self.fused, self.asked = origin, fp32, fused, asked
        self._calibration, self._count = calibration, count
        self._ranked: dict[tuple[str, bool, bool], list[list[str]]] = {}

    def make(self, plan: Plan) -> Graph:
        """Write the graph of a plan beside the graph it is made from."""
        base = self._base(plan)
        if plan.cascade is not None:
            return self._cascade(plan.name, plan.cascade, base.path.parent)
        if not plan.quantized:
            return Graph(plan.name, base.path, plan.runtime)
        path = base.path.with_name(f"{plan.name}.onnx")
        texts = self.texts if plan.calibrated else []
        quantize(plan, base.path, path, texts, self._kept(plan))
        return Graph(plan.name, path, plan.runtime)

    @cached_property
    def texts(self) -> list[Batch]:
        """Calibration texts as arrays (1, length), all of one length, since activations must have equal shapes.

        That is their median length: longer texts are cut to it, shorter ones left out.
        """
        tokenizer = self.origin.task.tokenizer(self.origin.tokenizer)
        lengths = [len(one.input_ids) for one in tokenizer.encode(self._calibration)]
        length = int(np.median(lengths))
        cut = Tokenizer(self.origin.tokenizer, Tokens(max_length=length)).encode(self._calibration)
        alike = [one for one in cut if len(one.input_ids) == length]
        return [tokenizer.pad([one]) for one in evenly_spaced(alike, self._count)]

    def used(self) -> list[str]:
        """A notice if there are fewer usable calibration texts than requested."""
        if len(self.texts) == self._count:
            return []
        return [
            f"static quantization was calibrated on {len(self.texts):,} texts, not {self._count:,}: those of at least "
            f"the median length of {len(self._calibration):,}, cut to it"
        ]

    def _base(self, plan: Plan) -> Graph:
        if not plan.fused:
            return self.fp32
        assert self.fused is not None, "fused plans need a fused graph"
        return self.fused

    def _cascade(self, name: str, plan: Cascade, folder: Path) -> Graph:
        assert self.asked is not None, "cascades need a model to ask"
        path = folder / f"{name}.onnx"
        cascade.join(folder / f"{plan.student}.onnx", self.asked.path, plan.threshold, path)
        return Graph(name, path)

    def _kept(self, plan: Plan) -> list[str]:
        """The nodes of the most sensitive layers, which the plan leaves in fp32."""
        if not plan.fp32_share:
            return []
        layers = self._layers(plan)
        return [name for layer in layers[: max(1, round(plan.fp32_share * len(layers)))] for name in layer]

    def _layers(self, plan: Plan) -> list[list[str]]:
        key = (plan.method, plan.fused, plan.signed)
        if key not in self._ranked:
            self._ranked[key] = sensitivity.rank(self._base(plan).path, evenly_spaced(self.texts, PROBES), plan)
        return self._ranked[key]

"""The teacher of a student: candidates are compared with it instead of the student, and may ask a larger model."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from bertline.artifacts import bundle as manifests
from bertline.artifacts.bundle import Source
from bertline.export import sources
from bertline.export.candidates import cascade
from bertline.export.conversion.graphs import Graph
from bertline.export.sources import Origin
from bertline.tasks.task import Example, Output


@dataclass(frozen=True)
class Teacher:
    """A teacher's run, and what exports of its students share."""

    run: str
    asked: Path | None = None
    """The bundle that a student asks in a cascade: the run's own, or a larger student's. None if the student must pass
    alone."""
    to_beat: float = 0.0
    """How many times as fast as PyTorch a cascade must be at least to be of use."""
    comparisons: dict[str, dict[str, int]] = field(default_factory=dict)
    """By student: its candidates compared on the examples so far, numbered from 1 in that order."""
    outputs: dict[Path, list[Output]] = field(default_factory=dict)
    """Of the examples, by model; students compared on the same examples share them."""

    def origin(self, examples: list[Example]) -> Origin:
        """The run as an origin, measured on the student's examples."""
        return replace(sources.read(self.run, None), examples=examples)

    def source(self, bundle: Path) -> Source | None:
        """The source of the larger model, as the manifest of `bundle` records it; None if there is no such model."""
        if self.asked is None:
            return None
        recorded = manifests.read(self.asked).source
        place = sources.recorded(sources.opened(recorded.place, self.asked), bundle)
        return recorded.model_copy(update={"place": place})

    def graph(self) -> Graph | None:
        """The larger model that a cascade asks; None if there is none."""
        return None if self.asked is None else cascade.read_asked(self.asked)

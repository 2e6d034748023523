"""The teacher of a student: candidates are held to it instead of to the student, and may ask a larger model."""

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
    """A run, and what is known of it from one export to the next."""

    run: str
    asked: Path | None = None
    """A bundle that a student which is not right alone asks in a cascade: the run's, or that of a larger student. None
    where the student is to be right alone."""
    comparisons: dict[str, dict[str, int]] = field(default_factory=dict)
    """By student: which of its candidates have been held against the examples, in which order."""
    answers: dict[Path, list[Output]] = field(default_factory=dict)
    """To the examples, by the model that gave them. Students that are held to the same examples share them."""

    def origin(self, examples: list[Example]) -> Origin:
        """The run, held to the examples that its student is held to."""
        return replace(sources.read(self.run, None), examples=examples)

    def source(self, bundle: Path) -> Source | None:
        """What the model that is asked was made from, as the manifest of `bundle` tells it."""
        if self.asked is None:
            return None
        told = manifests.read(self.asked).source
        place = sources.recorded(sources.opened(told.place, self.asked), bundle)
        return told.model_copy(update={"place": place})

    def graph(self) -> Graph | None:
        """The model that is asked."""
        return None if self.asked is None else cascade.read_asked(self.asked)

"""The teacher of a student: candidates are held to it instead of to the student, and may ask it in a cascade."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from bertline.export import sources
from bertline.export.candidates import cascade
from bertline.export.candidates.graphs import Graph
from bertline.export.sources import Origin
from bertline.tasks.task import Example, Output


@dataclass(frozen=True)
class Teacher:
    """A run, and what is known of it from one export to the next."""

    run: str
    bundle: Path | None = None
    """Of the run; asked in a cascade where the student is not right alone. None where there are to be no cascades."""
    answers: dict[Path, list[Output]] = field(default_factory=dict)
    """To the examples, by the model that gave them. Students that are held to the same examples share them."""

    def origin(self, examples: list[Example]) -> Origin:
        """The run, held to the examples that its student is held to."""
        return replace(sources.read(self.run, None), examples=examples)

    def asked(self) -> Graph | None:
        """The model that cascades ask."""
        return None if self.bundle is None else cascade.teacher(self.bundle)

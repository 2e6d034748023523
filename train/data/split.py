"""Labelled texts as the model reads them."""

from collections.abc import Sequence
from dataclasses import dataclass

from bertline.tasks.task import Example, Output
from bertline.train.data.mapped import Windows


@dataclass(frozen=True)
class Split:
    """A window for each text, or several of a long one."""

    name: str
    examples: Sequence[Example]
    windows: Windows
    teacher: Sequence[Output] | None = None
    """A teacher's outputs, one a window."""

"""Exports of a run's students to temporary places: alone, or in a cascade where they defer to a larger model."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from bertline.artifacts import files
from bertline.artifacts import run as runs
from bertline.artifacts.errors import GateError
from bertline.artifacts.say import Say
from bertline.export.choose import ROUNDING
from bertline.export.export import export
from bertline.export.options import ExportOptions
from bertline.export.teacher import Teacher
from bertline.launch.shrink import results
from bertline.launch.shrink.results import Attempt, Tried


class Larger(NamedTuple):
    """The model that students defer to in cascades."""

    name: str
    bundle: Path
    to_beat: float
    """Its speedup where it may be handed over itself, else 0."""


@dataclass(frozen=True)
class Exports:
    """How students are exported and held to the run."""

    place: Path
    """The teacher's run."""
    bundle: Path
    """The final place, beside which the bundles are made."""
    options: ExportOptions
    say: Say

    @cached_property
    def teacher(self) -> Teacher:
        """The reference model of all students."""
        return Teacher(str(self.place))

    def alone(self, tried: Tried) -> Attempt:
        """Export a student, unless its drop in PyTorch rules it out already."""
        if tried.drop > self.options.max_drop + ROUNDING:
            return self._told(Attempt(replace(tried, why=f"{tried.why} already"), None))
        return self._told(self._exported(tried, self.options, self.teacher))

    def cascaded(self, tried: Tried, larger: Larger) -> Attempt:
        """Export a student that does not pass alone in a cascade with a larger model."""
        self.say(f"{tried.student}: deferring to {larger.name} when unsure")
        teacher = replace(self.teacher, asked=larger.bundle, to_beat=larger.to_beat)
        found = self._exported(tried, replace(self.options, quick=True), teacher)
        if found.made is None:
            return self._told(Attempt(replace(tried, why=f"{tried.why}; with {larger.name}: {found.tried.why}"), None))
        share = found.made["cascade"]["share"]
        unit = runs.read_summary(Path(tried.run)).tokens.unit
        why = f"{found.tried.why}, which asks {larger.name} about {share:.0%} of the {unit}"
        return self._told(Attempt(replace(found.tried, why=why), found.made))

    def larger(self, alone: Sequence[Attempt]) -> Larger | None:
        """The model to defer to in cascades: the fastest student that passes alone, or else the run itself.

        None if neither passes, or if the task is not to give each text one label.
        """
        if runs.read_summary(self.place).problem_type != "single_label_classification":
            return None
        passed = [(results.speedup(made), tried.student, made["bundle"]) for tried, made in alone if made is not None]
        if passed:
            fastest, name, bundle = max(passed)
            return Larger(name, Path(bundle), fastest)
        return self._whole()

    def _whole(self) -> Larger | None:
        """The run itself as a bundle; None if no candidate of it passes."""
        self.say(f"{self.place}: exporting it, for students that do not pass alone to defer to")
        bundle = self._unseen(self.place)
        try:
            export(str(self.place), bundle, replace(self.options, quick=True), say=self.say)
        except GateError as error:
            self.say(f"no cascades: {error}")
            return None
        return Larger(str(self.place), bundle, to_beat=0.0)

    def _exported(self, tried: Tried, options: ExportOptions, teacher: Teacher) -> Attempt:
        """Export a student to a temporary place; the attempt has no result if no candidate passes."""
        try:
            made = export(tried.run, self._unseen(Path(tried.run)), options, say=self.say, teacher=teacher)
        except GateError as error:
            return Attempt(replace(tried, why=str(error).partition(";")[0]), None)  # the rest of the message is a table
        passed = replace(
            tried,
            value=made["value"],
            drop=made["drop"],
            p50_ms=results.latencies(made),
            speedup=results.speedup(made),
            why=f"passes: {made['chosen']}",
        )
        return Attempt(passed, made)

    def _unseen(self, run: Path) -> Path:
        """The temporary place of a run's bundle, until the fastest is chosen.

        It is beside the final one, because a bundle names its source relative to itself, and has the kind of name that
        `tempfile` gives, so that `files.remove_left` finds it.
        """
        digest = hashlib.sha256(run.name.encode()).hexdigest()
        return self.bundle.with_name(files.temporary_prefix(self.bundle) + digest[:8])

    def _told(self, attempt: Attempt) -> Attempt:
        """Report an attempt and return it."""
        self.say(f"{attempt.tried.student}: {attempt.tried.why}")
        return attempt

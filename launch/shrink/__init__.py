"""`bertline shrink`: makes a bundle of the fastest student of a run that is shown to stay within --max-drop.

The largest student is cut from the run, each smaller one from the student before it, and all are distilled from the
run. They are then exported from the smallest up, their drop measured against the run itself. The first that passes on
its own has the fewest layers that suffice; it is then pruned to half the heads and feed-forward units of each layer.
Students that do not pass alone are tried in a cascade, where they defer to a larger model when unsure: the fastest
student that passes alone or, if there is none, the run itself. The student of the fastest cascade is pruned to half as
well. The fastest of all that pass becomes the bundle.

Each student is a run beside the teacher's. When the same command is given again, finished students are reused and
unfinished ones resumed; exports are repeated.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bertline.artifacts import encoder, files
from bertline.artifacts import run as runs
from bertline.artifacts.errors import GateError, InputError
from bertline.artifacts.run import RunFolder
from bertline.artifacts.say import Say
from bertline.export import sources
from bertline.export.examples import check_answers, check_examples
from bertline.export.options import ExportOptions
from bertline.launch.devices import Devices
from bertline.launch.shrink import order, results, students
from bertline.launch.shrink.distill import Distillation
from bertline.launch.shrink.exports import Exports
from bertline.launch.shrink.results import Attempt


def shrink(
    place: Path,
    bundle: Path,
    devices: Devices,
    max_drop: float,
    unlabelled: str | None,
    overrides: Sequence[str],
    say: Say,
) -> dict[str, Any]:
    """Make a bundle of the fastest student that is shown to lose at most `max_drop` of the run's metric.

    Args:
        place: the run, whose data must still be where its recipe says.
        bundle: folder to make.
        devices: those that students are trained on.
        max_drop: largest drop of the teacher's metric on its validation split.
        unlabelled: more texts for the students, as in a recipe's `data.unlabelled`.
        overrides: KEY=VALUE overrides of the students' recipes.
        say: receives lines of progress.

    Returns:
        What `bertline export --json` prints for the bundle, with `student`, the one it was made of, and `curve`, all
        that were tried.

    Raises:
        InputError: `place` is not a finished run, or its model has no layers to remove; its data has changed; a
            student's run beside it has another recipe or teacher; an override is of what students keep; or another
            process is shrinking it.
        GateError: no student is shown to stay within `max_drop`; the message lists them in a table.
        PreemptedError: training was asked to stop.
    """
    files.check_new(bundle)
    _refuse_chosen(overrides)
    if place.name in ("", ".."):  # students are named after the run and stored beside it
        place = place.resolve()
    runs.verify(place)
    with _locked(place), _at_work(bundle):
        distillation = Distillation(place, devices, unlabelled, overrides, say)
        exports = Exports(place, bundle, ExportOptions(max_drop), say)
        largest_first = students.sizes(encoder.check(RunFolder(place).best))
        _check_can_pass(exports)
        return _publish(order.attempts(largest_first, distillation, exports), exports)


def _refuse_chosen(overrides: Sequence[str]) -> None:
    """Refuse overrides of what students keep, which is chosen here."""
    if chosen := [one for one in overrides if one.startswith("student")]:
        raise InputError(f"--set {chosen[0]}: what students keep is chosen here; a recipe of your own can set it")


def _check_can_pass(exports: Exports) -> None:
    """Check that the run's examples can tell a drop as small as is asked for: otherwise no student could pass."""
    origin = sources.read(str(exports.place), None)
    check_examples(origin, exports.options)
    check_answers(origin, exports.options, exports.teacher.outputs)


def _publish(attempts: Sequence[Attempt], exports: Exports) -> dict[str, Any]:
    """Move the bundle of the fastest student that passed to its final place; returns the answer of `shrink`.

    Raises:
        GateError: none passed.
    """
    curve = [one.tried for one in attempts]
    passed = [(tried, made) for tried, made in attempts if made is not None]
    if not passed:
        raise GateError(
            f"no student is shown to lose at most {exports.options.max_drop:g}; no bundle was made. Tried:\n"
            f"{results.table(curve)}\nMore unlabelled texts (--unlabelled), more epochs (--set training.epochs=N) or a "
            "larger --max-drop may help"
        )
    fastest, sealed = max(passed, key=lambda one: results.speedup(one[1]))
    exports.say(f"{exports.bundle}: {fastest.student}")
    files.publish(Path(sealed["bundle"]), exports.bundle)
    answer = {"bundle": str(exports.bundle), "student": fastest.student, "curve": [asdict(one) for one in curve]}
    return {**sealed, **answer}


@contextmanager
def _at_work(bundle: Path) -> Iterator[None]:
    """Keep exports to the same place from removing the bundles made here, and remove these at the end."""
    files.remove_left(bundle)
    try:
        with files.temporary_folder(bundle):
            yield
    finally:
        files.remove_left(bundle)


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    """Let one process at a time make students of a run, which are stored beside it.

    DeepSpeed's launcher inherits the lock, because ranks that outlive a killed process still write to a student.
    """
    busy = f"{place}: another process is shrinking it; wait for it and its ranks, or end them"
    with files.locked(place.with_name(f".{place.name}.lock"), busy) as stream:
        os.set_inheritable(stream.fileno(), True)
        yield

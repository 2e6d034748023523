"""The order in which students are tried: what becomes of one decides about the next."""

from collections.abc import Iterator, Sequence

from bertline.artifacts.recipe_schema import Student
from bertline.launch.shrink import results, students
from bertline.launch.shrink.distill import Distillation
from bertline.launch.shrink.exports import Exports, Larger
from bertline.launch.shrink.results import Attempt, Tried


def attempts(largest_first: Sequence[Student], distillation: Distillation, exports: Exports) -> list[Attempt]:
    """Try students alone, those that do not pass in cascades, and then the fastest cascade's student, halved."""
    learned: list[Tried] = []
    for kept in largest_first:
        learned.append(distillation.learned(kept, learned[-1] if learned else None))
    alone = list(_alone(learned[::-1], distillation, exports))
    reached = {one.tried.run for one in alone}
    rest = [Attempt(one, None) for one in learned[::-1] if one.run not in reached]  # larger than one that passes
    larger = exports.larger(alone)
    if larger is None:
        return [*alone, *rest]
    tried = [one if one.made else exports.cascaded(one.tried, larger) for one in alone]
    return [*tried, *_halved_asking(tried, larger, distillation, exports), *rest]


def _alone(smallest_first: Sequence[Tried], distillation: Distillation, exports: Exports) -> Iterator[Attempt]:
    """Try students from the smallest up to the first that passes, then that one halved."""
    for tried in smallest_first:
        yield (attempt := exports.alone(tried))
        if attempt.made is not None:
            if (less := students.halved(tried)) is not None:
                yield exports.alone(distillation.learned(less, tried))
            return


def _halved_asking(
    tried: Sequence[Attempt], larger: Larger, distillation: Distillation, exports: Exports
) -> Iterator[Attempt]:
    """Try the student of the fastest cascade, halved: it may defer hardly more often."""
    asking = [(results.speedup(one.made), one.tried) for one in tried if one.made and one.made["cascade"]]
    if asking and (less := students.halved(whole := max(asking, key=lambda one: one[0])[1])) is not None:
        yield exports.cascaded(distillation.learned(less, whole), larger)

"""Parts of a sequence: some of its items, evenly spaced, or all of them in batches."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def evenly_spaced(given: Sequence[T], count: int) -> list[T]:
    """At most `count` items, evenly spaced: files may be sorted by label, so their first rows may have only one."""
    count = min(count, len(given))
    return [given[index * len(given) // count] for index in range(count)]


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of `size` items; the last may be shorter."""
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some

"""Examples and windows round-trip through their files, whatever their number, without being loaded."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertline.tasks.task import Example
from bertline.tasks.tokens import Encoded
from bertline.train.data.mapped import ROWS, Examples, Windows

COUNTS = (1, ROWS - 1, ROWS, ROWS + 1, 2 * ROWS + 5)


def window(number: int) -> Encoded:
    chance, length = np.random.default_rng(number), number % 7 + 1
    ids, offsets = chance.integers(0, 250_000, length), chance.integers(0, 1 << 30, (length, 2))
    types, sequence = chance.integers(0, 2, length), chance.integers(-1, 2, length)
    return Encoded(ids, types, offsets, sequence, number, number % 3 == 0)


def target(kind: str, number: int) -> Any:
    return {
        "class": np.array(number % 5),
        "value": np.array(number / 3, np.float32),
        "labels": np.array([number % 2, 1, 0.5], np.float32),
        "tokens": np.arange(number % 7 + 1) - 100,
    }[kind]


@pytest.mark.parametrize("count", COUNTS)
def test_examples(tmp_path: Path, count: int) -> None:
    golds: tuple[Any, ...] = ("positive", ["a", "b"], 1.5, [{"label": "PER", "start": 0, "end": 2}], [])
    written = [Example(f"té\n{n}", f"{n}" if n % 2 else None, golds[n % len(golds)]) for n in range(count)]
    mapped = Examples.write(tmp_path / "a.arrow", iter(written))
    assert len(mapped) == count
    assert list(mapped) == written
    assert mapped[-1] == written[-1]
    assert mapped[1:5] == written[1:5]
    with pytest.raises(IndexError):
        mapped[count]


@pytest.mark.parametrize("kind", ["class", "value", "labels", "tokens"])
@pytest.mark.parametrize("count", COUNTS)
def test_windows(tmp_path: Path, kind: str, count: int) -> None:
    mapped = Windows.write(tmp_path / "a.arrow", ((window(n), target(kind, n)) for n in range(count)))
    assert mapped.lengths.tolist() == [n % 7 + 1 for n in range(count)]
    assert mapped.truncated.tolist() == [n % 3 == 0 for n in range(count)]
    assert len(mapped) == len(mapped.targets) == count
    for number, (found, learned) in enumerate(zip(mapped, mapped.targets, strict=True)):
        for one, other in zip(found, window(number), strict=True):
            np.testing.assert_array_equal(one, other)
        expected = target(kind, number)
        assert learned.dtype == expected.dtype
        np.testing.assert_array_equal(learned, expected)


def test_numbers_are_read_where_they_stand(tmp_path: Path) -> None:
    mapped = Windows.write(tmp_path / "a.arrow", ((window(n), target("tokens", n)) for n in range(10)))
    assert not mapped[3].input_ids.flags.owndata
    assert not mapped.targets[3].flags.owndata

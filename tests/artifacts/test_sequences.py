"""Parts of sequences."""

from bertline.artifacts.sequences import batched, evenly_spaced


def test_evenly_spaced() -> None:
    assert evenly_spaced(range(10), 4) == [0, 2, 5, 7]
    assert evenly_spaced(range(3), 4) == [0, 1, 2]
    assert evenly_spaced([], 4) == evenly_spaced(range(3), 0) == []


def test_the_last_batch_may_be_shorter() -> None:
    assert list(batched(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(batched([], 2)) == []

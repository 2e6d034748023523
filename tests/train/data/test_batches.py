"""Which examples a step sees, and how they are dealt to ranks and padded."""

import random
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from bertline.artifacts.recipe_schema import Training
from bertline.artifacts.task import TaskSettings, Tokens
from bertline.tasks import catalog
from bertline.tasks.task import Example
from bertline.train.data.batches import Batch, Batches, Indices, deal, global_batches
from bertline.train.losses import Loss
from bertline.train.objective import Objective
from tests.conftest import make_texts
from tests.train.conftest import encode

LENGTHS = random.Random(0).choices(range(4, 129), k=3333)


def test_every_example_stands_in_exactly_one_batch() -> None:
    batches = global_batches(LENGTHS, 32, seed=1, epoch=0)
    assert sorted(index for batch in batches for index in batch) == list(range(3333))
    assert sorted(map(len, batches)) == [5, *[32] * 104]


def test_order_is_a_function_of_seed_and_epoch() -> None:
    order = global_batches(LENGTHS, 32, seed=1, epoch=0)
    assert same(order, global_batches(LENGTHS, 32, seed=1, epoch=0))
    assert not same(order, global_batches(LENGTHS, 32, seed=1, epoch=1))
    assert not same(order, global_batches(LENGTHS, 32, seed=2, epoch=0))


def test_batches_hold_like_lengths_in_no_order_of_length() -> None:
    whole = [batch for batch in global_batches(LENGTHS, 32, seed=1, epoch=0) if len(batch) == 32]
    longest = [max(LENGTHS[index] for index in batch) for batch in whole]
    spread = [max(LENGTHS[index] for index in batch) - min(LENGTHS[index] for index in batch) for batch in whole]
    assert max(spread) < 20
    assert longest not in (sorted(longest), sorted(longest, reverse=True))


def test_no_two_epochs_have_the_same_batches_however_few_the_examples() -> None:
    once, again = (together(global_batches(LENGTHS[:333], 32, seed=1, epoch=epoch)) for epoch in (0, 1))
    assert len(once & again) < 0.4 * len(once)


def test_a_batch_that_is_short_has_texts_of_any_length() -> None:
    short = [min(global_batches(LENGTHS[:333], 32, seed=1, epoch=epoch), key=len) for epoch in range(20)]
    assert {len(batch) for batch in short} == {13}
    mean = np.mean([LENGTHS[index] for batch in short for index in batch])
    assert mean == pytest.approx(np.mean(LENGTHS[:333]), rel=0.1)


@pytest.mark.parametrize(("ranks", "accumulation"), [(1, 1), (2, 1), (3, 2), (4, 3), (40, 1)])
def test_a_batch_is_dealt_whole(ranks: int, accumulation: int) -> None:
    dealt = deal(np.arange(32), ranks, accumulation)
    assert [len(share) for share in dealt] == [accumulation] * ranks
    assert sorted(index for share in dealt for part in share for index in part) == list(range(32))
    sizes = [sum(map(len, share)) for share in dealt]
    assert max(sizes) - min(sizes) <= accumulation


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_see_the_same_steps_and_figures(model: Path, ranks: int) -> None:
    training = Training(batch_size=8, micro_batch_size=3, epochs=2)
    rows = make_texts(50)
    alone = batches(model, rows, training, rank=0, ranks=1)
    all_ranks = [batches(model, rows, training, rank, ranks) for rank in range(ranks)]
    assert alone.steps == 14
    for step in range(alone.steps):
        whole, shares = alone.at(step), [each.at(step) for each in all_ranks]
        assert texts(*shares) == texts(whole)
        counted = [part for share in shares for part in share.micro_batches if part.weight]
        assert sum(len(part.targets) for part in counted) == whole.normalizers.labels
        assert sum(int(part.inputs["attention_mask"].sum()) for part in counted) == whole.tokens
        for share in shares:
            assert share.tokens == whole.tokens
            if ranks == 2:  # with more ranks, some have no examples and repeat one with weight 0
                assert share.computed_tokens == sum(part.inputs["input_ids"].numel() for part in counted)


def test_batches_ahead_are_those_of_their_steps(model: Path) -> None:
    """A resumed run starts in the middle of an epoch."""
    training = Training(batch_size=8, epochs=2)
    rows = make_texts(50)
    coming = batches(model, rows, training, 0, 1).prefetch(4, pin=False)
    wanted = [batches(model, rows, training, 0, 1).at(step) for step in range(4, 14)]
    assert [texts(batch) for batch in coming] == [texts(batch) for batch in wanted]


def test_nothing_is_built_after_the_last_step(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run may resume after its last step."""
    built: list[int] = []
    whole = batches(model, make_texts(50), Training(batch_size=8, epochs=2), 0, 1)
    monkeypatch.setattr(whole, "at", lambda step, pin: built.append(step))
    assert not [*whole.prefetch(14, pin=False), *built]


def test_a_rank_without_examples_takes_part_with_no_weight(model: Path) -> None:
    rows = [{"text": "a film", "label": "negative"}, {"text": "a good film", "label": "positive"}]
    batch = batches(model, rows, Training(batch_size=2), rank=2, ranks=3).at(0)
    assert [(part.weight, len(part.targets)) for part in batch.micro_batches] == [(0.0, 1)]
    assert batch.normalizers.labels == 2


def test_padding_is_less_than_without_sorting() -> None:
    order = [index for batch in global_batches(LENGTHS, 16, seed=1, epoch=0) for index in batch]
    assert padding(global_batches(LENGTHS, 16, seed=1, epoch=0)) < 0.05
    shuffled = random.Random(1).sample(order, len(order))
    assert padding([shuffled[start : start + 16] for start in range(0, 3333, 16)]) > 0.3


def texts(*batches: Batch) -> list[list[int]]:
    """The token ids of all texts that count, without padding, sorted."""
    rows = []
    for part in (part for batch in batches for part in batch.micro_batches if part.weight):
        lengths = part.inputs["attention_mask"].sum(dim=1)
        rows += [ids[:length].tolist() for ids, length in zip(part.inputs["input_ids"], lengths, strict=True)]
    return sorted(rows)


def together(batches: list[Indices]) -> set[tuple[int, int]]:
    """The pairs of examples that share a batch."""
    return {pair for batch in batches for pair in combinations(sorted(batch.tolist()), 2)}


def same(order: list[Indices], other: list[Indices]) -> bool:
    return [batch.tolist() for batch in order] == [batch.tolist() for batch in other]


def batches(model: Path, rows: list[dict[str, str]], training: Training, rank: int, ranks: int) -> Batches:
    settings = TaskSettings(
        task="text-classification", problem_type="single_label_classification", inputs=["text"],
        labels=["negative", "positive"], tokens=Tokens(max_length=32),
    )  # fmt: skip
    task = catalog.make(settings)
    tokenizer = task.tokenizer(model)
    examples = [Example(row["text"], None, row["label"]) for row in rows]
    split = encode(examples, task, tokenizer)
    return Batches(split, Objective(Loss(settings, training, split.windows.targets)), tokenizer, training, rank, ranks)


def padding(batches: Sequence[Sequence[int] | Indices]) -> float:
    computed = sum(max(LENGTHS[index] for index in batch) * len(batch) for batch in batches)
    return 1 - sum(LENGTHS) / computed

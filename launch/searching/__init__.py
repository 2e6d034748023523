"""`bertline search`: trials of a recipe's settings, each scored by cross-validation, each fold a DeepSpeed run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bertline.artifacts.errors import InputError


def search(
    path: Path,
    overrides: Sequence[str],
    output: Path | None,
    say: Callable[[str], None],
    gpus: int | None = None,
    ranks: int | None = None,
    hostfile: Path | None = None,
) -> dict[str, Any]:
    """Search as a recipe says; print the trials by rank on stderr.

    Args:
        path: the recipe.
        overrides: KEY=VALUE.
        output: folder of the search; searches/NAME by default. One that was begun is gone on with.
        say: takes a line of progress.
        gpus: of this machine; all by default.
        ranks: on the CPU, where there is no GPU.
        hostfile: DeepSpeed's, for several machines.

    Returns:
        search.json.

    Raises:
        InputError: the extras [train,search] are not installed; of the recipe, its data, the folder or the machine.
        PreemptedError: it was asked to stop, and can go on.
        BertlineError: a run failed before any had succeeded, or every trial failed.
    """
    from bertline.artifacts import recipe as recipes
    from bertline.launch import deepspeed_launcher, training

    recipe = recipes.load(path, overrides, searches=True)
    deepspeed_launcher.where(gpus, ranks, hostfile)

    def train(path: Path, run: Path, resume: bool) -> None:
        training.start(path, gpus=gpus, ranks=ranks, hostfile=hostfile, run=run, resume=resume)

    try:
        from bertline.launch.searching import results, trials
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is not installed; pip install 'bertline[train,search]'") from None
    found = trials.search(recipe, output or Path("searches", recipe.name), trials.one_by_one(train), say)
    results.show(found)
    return found

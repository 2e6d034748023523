"""`bertline search`: trials of a recipe's settings, each scored by cross-validation, each fold a DeepSpeed run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertline.artifacts.errors import InputError, install_advice
from bertline.artifacts.say import Say

if TYPE_CHECKING:
    from bertline.launch.search.trials import Engine, Train


def search(
    path: Path,
    overrides: Sequence[str],
    output: Path | None,
    say: Say,
    gpus: int | None = None,
    ranks: int | None = None,
    hostfile: Path | None = None,
    engine: str = "local",
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
        engine: local, or ray: runs side by side on the machines of a Ray cluster.

    Returns:
        search.json.

    Raises:
        InputError: the extra [ray] is not installed, and asked for; of the recipe, its data, the folder or the machine.
        PreemptedError: it was asked to stop, and can go on.
        BertlineError: a run failed before any had succeeded, or every trial failed.
    """
    from bertline.artifacts import recipe as recipes
    from bertline.launch import deepspeed_launcher, train

    recipe = recipes.load(path, overrides, searches=True)
    if engine == "local":
        deepspeed_launcher.where(gpus, ranks, hostfile)
    elif (gpus is None) == (ranks is None) or hostfile is not None:
        raise InputError("--engine ray: say what a run takes of a machine: --gpus N, or --ranks N on its CPU")

    def trained(path: Path, run: Path, resume: bool) -> None:
        train.start(path, gpus=gpus, ranks=ranks, hostfile=hostfile, run=run, resume=resume)

    from bertline.launch.search import results, trials

    runs = trials.one_by_one(trained) if engine == "local" else _side_by_side(trained, gpus)
    found = trials.search(recipe, output or Path("searches", recipe.name), runs, say)
    results.show(found)
    return found


def _side_by_side(train: Train, gpus: int | None) -> Engine:
    """On a Ray cluster; Ray is imported only here.

    Raises:
        InputError: the extra [ray] is not installed.
    """
    try:
        from bertline.launch.search import by_ray
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is not installed; {install_advice('train', 'search', 'ray')}") from None
    return by_ray.side_by_side(train, gpus)

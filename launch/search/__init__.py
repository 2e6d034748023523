"""`bertline search`: tries settings of a recipe, scoring each by cross-validation. Each fold is a DeepSpeed run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertline.artifacts.errors import InputError, install_advice
from bertline.artifacts.say import Say

if TYPE_CHECKING:
    from bertline.launch.search.trials import Runner, Train


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
    """Run the search of a recipe and print its trials, ranked, on stderr.

    Args:
        path: the recipe.
        overrides: KEY=VALUE overrides of the recipe.
        output: folder of the search, searches/NAME by default. A search that was begun there is resumed.
        say: receives lines of progress.
        gpus: number of GPUs of this machine; all by default.
        ranks: number of CPU ranks, where there is no GPU.
        hostfile: DeepSpeed hostfile, for several machines.
        engine: "local", or "ray" to run trials side by side on the machines of a Ray cluster.

    Returns:
        The contents of search.json.

    Raises:
        InputError: the recipe, its data, the folder or the machine is at fault, or the extra [ray] is not installed.
        PreemptedError: the search was asked to stop, and can be resumed.
        BertlineError: a run failed before any had succeeded, or every trial failed.
    """
    from bertline.artifacts import recipe as recipes
    from bertline.launch import train
    from bertline.launch.devices import Devices

    recipe = recipes.load(path, overrides, searches=True)
    here = None  # each machine of a Ray cluster counts its own GPUs
    if engine == "local":
        here = Devices.choose(gpus, ranks, hostfile)
    elif (gpus is None) == (ranks is None) or hostfile is not None:
        raise InputError("--engine ray: say what each run takes of a machine: --gpus N, or --ranks N for its CPU")

    def trained(path: Path, run: Path, resume: bool) -> None:
        train.start(path, here or Devices.choose(gpus, ranks), run=run, resume=resume)

    from bertline.launch.search import results, trials

    runs = trials.one_by_one(trained) if engine == "local" else _side_by_side(trained, gpus)
    found = trials.search(recipe, output or Path("searches", recipe.name), runs, say)
    results.show(found)
    return found


def _side_by_side(train: Train, gpus: int | None) -> Runner:
    """The runner for a Ray cluster; Ray is imported only here.

    Raises:
        InputError: the extra [ray] is not installed.
    """
    try:
        from bertline.launch.search import by_ray
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is not installed; {install_advice('train', 'search', 'ray')}") from None
    return by_ray.side_by_side(train, gpus)

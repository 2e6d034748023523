"""Runs all systems in turns, each alone in its own processes; each round starts with a different one."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bertline.artifacts import machine, places
from bertline.artifacts import recipe as recipes
from bertline.artifacts.errors import BertlineError, InputError, PreemptedError
from bertline.artifacts.say import Say
from bertline.benchmarks.train import figures, flops, ranks
from bertline.benchmarks.train.figures import Figures
from bertline.benchmarks.train.job import STEPS, WARM_UP, Counts, Device, Job, Kind
from bertline.launch.devices import Devices, visible_gpus
from bertline.train.__main__ import ENVIRONMENT

PACKAGE = "bertline.benchmarks.train"


class System(NamedTuple):
    """One way to train."""

    name: str
    kind: Kind
    precision: str
    ranks: int


def systems(device: Device) -> list[System]:
    """The systems to measure here: in bf16 if it is native; on a CPU also bertline in fp32 and on two ranks."""
    native = device == "cuda" or machine.computes_bf16()
    precision = "bf16" if native else "fp32"
    found = [
        System(figures.BERTLINE, "bertline", precision, 1),
        System(figures.BARE, "bare", precision, 1),
        System(figures.TRAINER, "trainer", precision, 1),
        System(figures.GROUPED, "grouped", precision, 1),
        System(figures.TUTORIAL, "tutorial", precision, 1),
    ]
    if device == "cpu" and machine.cores() > 1:
        found.append(System(figures.TWO_RANKS, "bertline", precision, 2))
    if device == "cpu" and native:
        found.append(System(figures.FP32, "bertline", "fp32", 1))
    return found


def measure(recipe: Path, work: Path, steps: int | None, rounds: int, say: Say) -> dict[str, Any]:
    """Measure every system in every round.

    Args:
        recipe: a recipe for classification of single texts.
        work: an empty folder.
        steps: number of steps of each run, of which the first WARM_UP are not measured; STEPS if None.
        rounds: number of runs of each system.
        say: receives lines of progress.

    Raises:
        InputError: too few steps.
        BertlineError: a system failed, or the data could not be prepared, for example because it has too few texts.
    """
    device: Device = "cuda" if Devices.choose().kind == "gpu" else "cpu"
    steps = STEPS[device] if steps is None else steps
    if steps <= WARM_UP[device]:
        raise InputError(f"--steps {steps}: the first {WARM_UP[device]} are not measured; give more")
    compared = systems(device)
    precisions = list(dict.fromkeys(system.precision for system in compared))
    _run([f"{PACKAGE}.prepare", str(recipe), str(work), device, str(steps), *precisions], device)
    counts = {int(count): found for count, found in json.loads((work / "counts.json").read_bytes()).items()}
    measured: dict[str, list[Figures]] = {system.name: [] for system in compared}
    for number in range(rounds):
        first = number % len(compared)
        for system in [*compared[first:], *compared[:first]]:
            folder = work / "told" / f"{number}-{system.name}"
            found = turn(system, work, folder, device, steps, counts[system.ranks])
            measured[system.name].append(found)
            say(f"round {number + 1} of {rounds}, {system.name}: {found.tokens_per_second:,.0f} tokens/s")
    return _result(compared, measured, work, device, steps)


def turn(system: System, work: Path, folder: Path, device: Device, steps: int, counts: Counts) -> Figures:
    """Run one system once; `counts` has the tokens of bertline's batches for its number of ranks."""
    folder.mkdir(parents=True)
    job = Job(
        kind=system.kind,
        recipe=work / f"{system.precision}.yaml",
        work=work,
        folder=folder,
        device=device,
        steps=steps,
        launched=time.monotonic(),
    )
    path = job.save()
    if system.kind == "bertline":
        run = work / "runs" / folder.name
        devices = Devices.choose(gpus=1) if device == "cuda" else Devices.choose(ranks=system.ranks)
        code = ranks.start(f"{PACKAGE}.timed", job.recipe, devices, [], run, [str(path)])
        if code != PreemptedError.exit_code:
            raise BertlineError(f"{system.name}: training ended with exit code {code}; the reason is above")
    else:
        _run([f"{PACKAGE}.worker", str(path)], device)
    told = job.told()
    return figures.figures(job.launched, told, told[0].counts or counts, device)


def _run(words: Sequence[str], device: Device) -> None:
    """Execute a module to its end, with as many threads as bertline, which sleep while they wait as bertline's do.

    The rest of the environment is this process's own, without what the launcher sets for bertline's ranks.

    Raises:
        BertlineError: it failed; the message ends with its last lines.
    """
    variables = {**ENVIRONMENT, **os.environ}
    if device == "cuda":  # the Trainer would use all GPUs
        variables["CUDA_VISIBLE_DEVICES"] = visible_gpus()[0]
    else:
        variables |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": str(machine.cores())}
    done = subprocess.run([sys.executable, "-m", *words], env=variables, capture_output=True, text=True)
    if done.returncode != 0:
        last = "\n".join(done.stderr.splitlines()[-10:])
        raise BertlineError(f"{words[0]}: ended with exit code {done.returncode}\n{last}")


def _result(
    compared: Sequence[System], measured: dict[str, list[Figures]], work: Path, device: Device, steps: int
) -> dict[str, Any]:
    recipe = recipes.read(work / f"{compared[0].precision}.yaml")
    rows = [figures.row(name, found) for name, found in measured.items()]
    result: dict[str, Any] = {
        "model": recipe.model,
        "precision": compared[0].precision,
        "max_length": recipe.tokens.max_length,
        "batch_size": recipe.training.batch_size,
        "steps": steps,
        "warm_up_steps": WARM_UP[device],
        "systems": rows,
        "ratios": figures.ratios(measured),
    }
    if device == "cuda":
        gpu = _gpu()
        result |= {"gpu": gpu, "model": "BERT-base, random weights"}
        lengths = [len(row["input_ids"]) for row in json.loads((work / "examples.json").read_bytes())["rows"]]
        config = json.loads((places.model_folder(recipe.model) / "config.json").read_bytes())
        for row in rows:
            speed = row["tokens_per_second"]
            row["flop_utilization"] = flops.utilization(config, sum(lengths) / len(lengths), speed, gpu)
    return result


def _gpu() -> str:
    import torch

    return torch.cuda.get_device_name(0)

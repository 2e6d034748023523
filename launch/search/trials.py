"""The search itself: cuts the folds, runs the trials fold by fold, prunes unpromising ones and writes the results.

recipe.yaml            the recipe as resolved
folds/                 the rows of each fold: train/data/folds.py
study.log              Optuna's journal: every trial, its settings and its scores
recipes/*.yaml         the recipe of each run
runs/trial-N-fold-K/   run.json, metrics.jsonl and recipe.yaml of each run; its weights are not kept
search.json            the ranked trials, the best one and what to expect of it; written when all trials are done
best.yaml              the recipe with the best settings
importance.svg         which keys mattered

Nothing is done twice: a fold that has a run.json is read, and one that was interrupted resumes from its checkpoint.
"""

import fcntl
import os
import shutil
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from optuna import Study, Trial
from optuna.trial import TrialState

from bertline.artifacts import files
from bertline.artifacts import recipe as recipes
from bertline.artifacts import run as runs
from bertline.artifacts.errors import BertlineError, InputError, PreemptedError
from bertline.artifacts.recipe_schema import Recipe
from bertline.artifacts.run import RunFolder
from bertline.artifacts.say import Say
from bertline.launch.search import importance, results, study
from bertline.train import cache
from bertline.train.data import folds, sources

Train = Callable[[Path, Path, bool], object]
"""Trains, given a recipe, the folder of its run and whether to resume it."""
Steps = Generator["Job", "BertlineError | None", None]
"""The steps of a trial: yields the run of a fold, and is sent the error if that run failed, else None."""
Runner = Callable[["Trials"], None]
"""Makes the runs of all trials."""

MAY_CHANGE = (*recipes.HARMLESS, "search.trials")
"""Keys that may change when a search is resumed: no trial depends on them, only how many there are."""


def search(recipe: Recipe, folder: Path, runner: Runner, say: Say) -> dict[str, Any]:
    """Run all trials of a search that are not done yet, and write the results.

    Args:
        recipe: recipe of the search.
        folder: folder of the search, which is resumed if it was begun.
        runner: makes the runs.
        say: receives lines of progress.

    Returns:
        The contents of search.json.

    Raises:
        InputError: the data or the folder is at fault, or the runner raised it.
        PreemptedError: the search was asked to stop, and can be resumed.
        BertlineError: a trial failed, possibly through the machine's fault, and can be retried; or every trial failed.
    """
    begin(recipe, folder, say)
    with files.locked(folder / "lock", f"{folder}: another process searches there; wait for it, or end it"):
        recipes.save(recipe, folder / "recipe.yaml")  # keys in MAY_CHANGE may have new values
        kept = study.opened(recipe, folder / "study.log")
        runner(Trials(recipe, folder, say, kept))
        found = results.collect(kept, recipe, folder / "best.yaml")
        recipes.save(results.best_recipe(recipe, found), folder / "best.yaml")
        files.write_json(folder / "search.json", found)
        say(importance.draw(kept, recipe, folder / "importance.svg"))
        return found


def begin(recipe: Recipe, folder: Path, say: Say) -> None:
    """Cut the folds of a new search, or check that those of a resumed one belong to this recipe and this data.

    Raises:
        InputError: they do not, or the folder holds something else; or as `folds.make`.
    """
    kept = folder / "recipe.yaml"
    if not folder.exists():
        say(f"reading {recipe.data.train}")
        files.remove_left(folder)
        with files.new_folder(folder) as temporary:
            recipes.save(recipe, temporary / kept.name)
            folds.make(recipe, temporary / "folds")
    elif not (folder / "folds").exists() or not kept.exists():
        raise InputError(f"{folder}: exists and is not a search; name another folder with -o")
    faults = [
        f"{key}: {now!r} now, {then!r} when {folder} began; resume a search with its own recipe: {kept}"
        for key, (now, then) in recipes.differences(recipe, recipes.read(kept), MAY_CHANGE).items()
    ]
    facts = folds.load(folder / "folds")
    if not faults and sources.content(recipe.data) != facts["content"]:
        faults = [f"{folder}: the data is not what the search began with; restore it, or name another folder with -o"]
    if faults:
        raise InputError(*faults)
    test = f"{facts['put_aside']:,} test texts are set aside"
    say(f"{test}; folds (train, validation, held out): {_sizes(facts['folds'])}")


class Job(NamedTuple):
    """The run of a fold."""

    path: Path
    """Where its recipe is written."""
    run: Path
    recipe: Recipe


def do(job: Job, train: Train) -> None:
    """Start or resume a run, unless it is finished.

    The recipe's file is locked meanwhile, and DeepSpeed's launcher inherits the lock: a new process waits for the ranks
    that a killed one has left, and two trials with the same settings do not run side by side. The file is written in
    place, because a replaced file would have a lock of its own. If the launcher was killed, too (Ray does so on a
    machine that it has given up), its ranks save a checkpoint and end; the lock of their rank 0 is waited for.
    """
    run = RunFolder(job.run)
    job.path.parent.mkdir(parents=True, exist_ok=True)
    with job.path.open("a+", encoding="utf-8") as stream:
        os.set_inheritable(stream.fileno(), True)
        _wait_for(stream)
        if (held := cache.lock_of(job.run)).exists():
            with held.open("a") as by_rank_0:
                _wait_for(by_rank_0)
        if not run.summary.exists():
            stream.truncate(0)
            stream.write(recipes.dump(job.recipe))
            stream.flush()
            train(job.path, job.run, run.recipe.exists())


def _wait_for(lock: IO[str]) -> None:
    """Take a lock once no other process holds it."""
    with suppress(OSError):  # the file system has no locks
        fcntl.flock(lock, fcntl.LOCK_EX)


@dataclass
class Trials:
    """The trials of a search; a runner asks for their jobs and reports how each ended."""

    recipe: Recipe
    folder: Path
    say: Say
    study: Study

    def following(self, at_work: Collection[int] = ()) -> tuple[int, Steps] | None:
        """The number of an interrupted or new trial, and its steps; None if there is none left.

        Args:
            at_work: numbers of the trials that are running.
        """
        trial = study.following(self.study, self.recipe, at_work)
        return None if trial is None else (trial.number, self._steps(trial))

    def _steps(self, trial: Trial) -> Steps:
        """Score a trial, fold by fold, until it is pruned or done.

        Yields:
            A run to make.

        Receives:
            The error if the run failed, else None.

        Raises:
            BertlineError: the failure may not be due to the settings.
        """
        settings, count = study.settings(trial), self.recipe.search.folds
        name = f"trial {trial.number + 1}/{study.size(self.recipe.search)}"
        self.say(f"{name}: {results.words(settings)}")
        scores: list[float] = []
        seconds = 0.0
        for number in range(1, count + 1):
            job = self._job(study.number(self.study, trial), settings, number)
            if (fault := (yield from self._made(job))) is not None:
                self._fail(trial, fault)
                _clean(RunFolder(job.run))
                return
            summary = runs.read_summary(job.run)
            _clean(RunFolder(job.run))
            scores.append(summary.test[summary.metric])
            seconds += summary.seconds
            trial.set_user_attr("seconds", round(seconds, 1))
            study.report(self.study, trial, scores)
            mean = float(np.mean(scores))
            self.say(f"{name}, fold {number}/{count}: {summary.metric} {scores[-1]:.4f}; mean {mean:.4f}")
            if number < count and trial.should_prune():
                self.study.tell(trial, state=TrialState.PRUNED)
                self.say(f"{name}: pruned")
                return
        self.study.tell(trial, float(np.mean(scores)))

    def _job(self, trial: int, settings: dict[str, Any], number: int) -> Job:
        """The run of a fold."""
        name = f"trial-{trial}-fold-{number}"
        recipe = recipes.with_settings(self.recipe, settings | {"name": f"{self.recipe.name}-{name}"})
        recipe = folds.of(recipe, self.folder / "folds", number)
        return Job(self.folder / "recipes" / f"{name}.yaml", self.folder / "runs" / name, recipe)

    def _made(self, job: Job) -> Generator[Job, BertlineError | None, BertlineError | None]:
        """Make a run unless it is finished. A failed run is resumed once, since ranks get killed and machines lost.

        Returns:
            The error if it failed twice, else None.

        Raises:
            BertlineError: as `_steps`.
        """
        run = RunFolder(job.run)
        for outcome in ("failed; retrying once", "failed again"):
            if run.summary.exists() or (fault := (yield job)) is None:
                return None
            if isinstance(fault, PreemptedError):
                raise PreemptedError(f"{self.folder}: stopped as asked; the same command resumes it") from None
            if isinstance(fault, InputError):
                raise fault
            self.say(f"{fault}\n{run.path.name}: {outcome}")
        return fault

    def _fail(self, trial: Trial, fault: BertlineError) -> None:
        """Mark a trial as failed; if the machine may be at fault, end the search instead, and retry the trial later."""
        number = trial.number + 1
        if study.SUSPECTED not in trial.user_attrs and (suspicion := self._suspicion(number, fault)) is not None:
            trial.set_user_attr(study.SUSPECTED, True)
            raise BertlineError(
                f"{self.folder}: {suspicion}; if that is the machine's fault, fix it: the same command retries "
                f"trial {number} and continues"
            )
        study.fail(self.study, trial)
        self.say(f"trial {number}: failed; it is ranked last")

    def _suspicion(self, number: int, fault: BertlineError) -> str | None:
        """Why the machine may be at fault; None if the settings seem to be, such as a learning rate that is too high.

        Only one of several trials that fail in a row is suspicious: a grid tries all combinations with a bad value in
        succession.
        """
        before = study.failed_last(self.study)
        if any(study.SUSPECTED in one.user_attrs for one in before):
            return None
        if not any((self.folder / "runs").glob("*/run.json")):
            return f"trial {number} failed, and no run has succeeded yet ({fault})"
        return f"trials {before[0].number + 1} and {number} failed in a row" if before else None


def one_by_one(train: Train) -> Runner:
    """Run trials on this machine, one after another."""

    def runner(trials: Trials) -> None:
        while (following := trials.following()) is not None:
            _, steps = following
            job = next(steps, None)
            while job is not None:
                job = advance(steps, _fault(job, train))

    return runner


def advance(steps: Steps, fault: BertlineError | None) -> Job | None:
    """The next job of a trial, given how the last one ended; None if the trial is done."""
    try:
        return steps.send(fault)
    except StopIteration:
        return None


def _fault(job: Job, train: Train) -> BertlineError | None:
    try:
        do(job, train)
    except BertlineError as error:
        return error
    return None


def _clean(run: RunFolder) -> None:
    """Remove the weights, checkpoints and splits of a run, which nobody needs any more."""
    for folder in (run.best, run.checkpoints, run.path / "splits"):
        shutil.rmtree(folder, ignore_errors=True)


def _sizes(counts: Sequence[dict[str, int]]) -> str:
    return ", ".join("/".join(f"{count:,}" for count in fold.values()) for fold in counts)

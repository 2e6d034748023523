"""The search itself: folds are cut, trials are run fold by fold, the unpromising given up; what came of it is written.

recipe.yaml            the recipe as resolved
folds/                 the rows of each fold: train/data/folds.py
study.log              Optuna's journal: every trial, what it chose and scored
recipes/*.yaml         the recipe of each run
runs/trial-N-fold-K/   run.json, metrics.jsonl and recipe.yaml of each; its weights are not kept
search.json            the trials by rank, the best and what to expect of it; written when all are done
best.yaml              the recipe with the best settings
importance.svg         which keys mattered

Nothing is done twice: a fold whose run.json is there is read, one that was interrupted resumes from its checkpoint.
"""

import fcntl
import os
import shutil
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

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
from bertline.train.data import folds, sources

Train = Callable[[Path, Path, bool], object]
"""Given a recipe, the folder of its run and whether it is there to be resumed: trains."""
Steps = Generator["Job", "BertlineError | None", None]
"""Of a trial: yields the run of a fold, is sent why it failed, if it did."""
Engine = Callable[["Trials"], None]
"""Has the runs of all trials made."""

MAY_CHANGE = (*recipes.HARMLESS, "search.trials")
"""Keys that a search may go on with other values of: its trials are the same, or more."""


def search(recipe: Recipe, folder: Path, engine: Engine, say: Say) -> dict[str, Any]:
    """Run all trials of a search that are not done, and tell what came of it.

    Args:
        recipe: of the search.
        folder: of it; one that was begun is gone on with.
        engine: has the runs made.
        say: takes a line of progress.

    Returns:
        search.json.

    Raises:
        InputError: of the data or the folder, or as the engine.
        PreemptedError: it was asked to stop, and can go on.
        BertlineError: a trial failed that may be tried again, the machine being suspected; or every trial did.
    """
    begin(recipe, folder, say)
    with files.locked(folder / "lock", f"{folder}: another process searches there; wait for it, or end it"):
        recipes.save(recipe, folder / "recipe.yaml")  # with what it may go on with other values of
        kept = study.opened(recipe, folder / "study.log")
        engine(Trials(recipe, folder, say, kept))
        found = results.collect(kept, recipe, folder / "best.yaml")
        recipes.save(results.best_recipe(recipe, found), folder / "best.yaml")
        files.write_json(folder / "search.json", found)
        say(importance.draw(kept, recipe, folder / "importance.svg"))
        return found


def begin(recipe: Recipe, folder: Path, say: Say) -> None:
    """Cut the folds of a new search, or see that those of one that was begun are of this recipe and these data.

    Raises:
        InputError: they are not, or the folder holds something else; or as `folds.make`.
    """
    kept = folder / "recipe.yaml"
    if not folder.exists():
        say(f"reading {recipe.data.train}")
        files.remove_left(folder)
        with files.new_folder(folder) as temporary:
            recipes.save(recipe, temporary / kept.name)
            folds.make(recipe, temporary / "folds")
    elif not (folder / "folds").exists() or not kept.exists():
        raise InputError(f"{folder}: exists and is no search; name another folder with -o")
    faults = [
        f"{key}: {now!r} now, {then!r} when {folder} began; a search goes on with its own recipe: {kept}"
        for key, (now, then) in recipes.differences(recipe, recipes.read(kept), MAY_CHANGE).items()
    ]
    facts = folds.load(folder / "folds")
    if not faults and sources.content(recipe.data) != facts["content"]:
        faults = [f"{folder}: the data is not what the search began with; restore it, or name another folder with -o"]
    if faults:
        raise InputError(*faults)
    test = f"{facts['put_aside']:,} test texts are put aside"
    say(f"{test}; folds (train, validation, held out): {_sizes(facts['folds'])}")


class Job(NamedTuple):
    """The run of a fold."""

    path: Path
    """Of its recipe, to be written."""
    run: Path
    recipe: Recipe


def do(job: Job, train: Train) -> None:
    """Make a run that is not there, or go on with it.

    The recipe's file is locked meanwhile, and DeepSpeed's launcher inherits the lock: ranks that are left of a process
    that was killed are waited for, and two trials with the same settings are not run side by side. It is written in
    place, since another file would have another lock.
    """
    run = RunFolder(job.run)
    job.path.parent.mkdir(parents=True, exist_ok=True)
    with job.path.open("a+", encoding="utf-8") as stream:
        os.set_inheritable(stream.fileno(), True)
        with suppress(OSError):  # a disk without locks
            fcntl.flock(stream, fcntl.LOCK_EX)
        if not run.summary.exists():
            stream.truncate(0)
            stream.write(recipes.dump(job.recipe))
            stream.flush()
            train(job.path, job.run, run.recipe.exists())


@dataclass
class Trials:
    """The trials of a search; what runs them asks for jobs and tells how they ended."""

    recipe: Recipe
    folder: Path
    say: Say
    study: Study

    def following(self, at_work: Collection[int] = ()) -> tuple[int, Steps] | None:
        """The number of a trial that is interrupted or new, and its steps; None where there is none.

        Args:
            at_work: numbers of those that are neither.
        """
        trial = study.following(self.study, self.recipe, at_work)
        return None if trial is None else (trial.number, self._steps(trial))

    def _steps(self, trial: Trial) -> Steps:
        """Score a trial, fold by fold, until it is given up or done.

        Yields:
            a run to be made.

        Receives:
            why it failed, if it did.

        Raises:
            BertlineError: that was no fault of the settings.
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
                self.say(f"{name}: given up")
                return
        self.study.tell(trial, float(np.mean(scores)))

    def _job(self, trial: int, settings: dict[str, Any], number: int) -> Job:
        """The run of a fold."""
        name = f"trial-{trial}-fold-{number}"
        recipe = recipes.with_settings(self.recipe, settings | {"name": f"{self.recipe.name}-{name}"})
        recipe = folds.of(recipe, self.folder / "folds", number)
        return Job(self.folder / "recipes" / f"{name}.yaml", self.folder / "runs" / name, recipe)

    def _made(self, job: Job) -> Generator[Job, BertlineError | None, BertlineError | None]:
        """Have a run made that is not there; one that fails goes on once more, for ranks are killed and machines lost.

        Returns:
            why it has failed for the second time; None where it is there.

        Raises:
            BertlineError: as `_steps`.
        """
        run = RunFolder(job.run)
        for told in ("it is tried once more", "for the second time"):
            if run.summary.exists() or (fault := (yield job)) is None:
                return None
            if isinstance(fault, PreemptedError):
                raise PreemptedError(f"{self.folder}: stopped as asked; the same command goes on") from None
            if isinstance(fault, InputError):
                raise fault
            self.say(f"{fault}\n{run.path.name}: failed; {told}")
        return fault

    def _fail(self, trial: Trial, fault: BertlineError) -> None:
        """Count a trial as failed, unless the machine may be at fault: then end the search, and try it again first."""
        number = trial.number + 1
        if study.SUSPECTED not in trial.user_attrs and (suspicion := self._suspicion(number, fault)) is not None:
            trial.set_user_attr(study.SUSPECTED, True)
            raise BertlineError(
                f"{self.folder}: {suspicion}; if that is the machine's fault, mend it: the same command tries trial "
                f"{number} again and goes on"
            )
        study.fail(self.study, trial)
        self.say(f"trial {number}: failed; it counts as one that scores nothing")

    def _suspicion(self, number: int, fault: BertlineError) -> str | None:
        """Why a failure may not be that of the settings; None where a learning rate is too high, say, and others work.

        Of several trials that fail in a row only one is suspicious: a grid has all combinations with a bad value there.
        """
        if not any((self.folder / "runs").glob("*/run.json")):
            return f"trial {number} failed, and no run has succeeded yet ({fault})"
        before = study.failed_last(self.study)
        if not before or any(study.SUSPECTED in one.user_attrs for one in before):
            return None
        return f"trials {before[0].number + 1} and {number} failed one after the other"


def one_by_one(train: Train) -> Engine:
    """Makes the runs here, one after another."""

    def engine(trials: Trials) -> None:
        while (following := trials.following()) is not None:
            _, steps = following
            job = next(steps, None)
            while job is not None:
                job = advance(steps, _fault(job, train))

    return engine


def advance(steps: Steps, fault: BertlineError | None) -> Job | None:
    """The next job of a trial, once the last one has ended; None where there is none."""
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
    """Remove the weights of a run, which are for nobody."""
    for done_with in (run.best, run.checkpoints, run.path / "splits"):
        shutil.rmtree(done_with, ignore_errors=True)


def _sizes(counts: Sequence[dict[str, int]]) -> str:
    return ", ".join("/".join(f"{count:,}" for count in fold.values()) for fold in counts)

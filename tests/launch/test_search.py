"""Searches by cross-validation: what is run and what not, going on when interrupted, the ranking, what to expect."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import psutil
import pytest
import yaml
from click.testing import CliRunner

from bertline.artifacts import files
from bertline.artifacts import recipe as recipes
from bertline.artifacts import run as runs
from bertline.artifacts.errors import BertlineError, InputError, PreemptedError
from bertline.artifacts.recipe_schema import Recipe, Search
from bertline.artifacts.run import RunFolder
from bertline.launch.command import main
from bertline.launch.search import importance, results, study, trials
from bertline.train import cache
from tests.conftest import make_model
from tests.train.conftest import train_here, write_recipe

LEARNS, DOES_NOT = 3e-3, 1e-8
TAKE = "data.take={train: 60, validation: 20, test: 30}"
SETS = ["training.epochs=10", "training.batch_size=8", "training.best=loss", TAKE]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny recipe that searches nothing yet."""
    folder = tmp_path_factory.mktemp("search")
    return write_recipe(make_model(folder / "model"), folder)


def asked(plain: Path, **search: Any) -> Recipe:
    return recipes.load(plain, [*SETS, f"search={json.dumps(search)}"], searches=True)


class Trains:
    """Trains in this process; remembers what, and may be interrupted, or fail as often as a run is named."""

    def __init__(self, stop: dict[str, int] | None = None, fail: Sequence[str] = ()) -> None:
        self.begun: list[str] = []
        self.resumed: list[str] = []
        self.stop, self.fail = stop or {}, list(fail)

    def __call__(self, recipe: Path, run: Path, resume: bool) -> None:
        (self.resumed if resume else self.begun).append(run.name)
        if run.name in self.fail:
            self.fail.remove(run.name)
            raise BertlineError("a rank died")
        train_here(recipe, run, resume=resume, stop=self.stop.get(run.name, 0))


def search(recipe: Recipe, folder: Path, train: Callable[[Path, Path, bool], object]) -> dict[str, Any]:
    return trials.search(recipe, folder, trials.one_by_one(train), lambda words: None)


def test_an_interrupted_search_goes_on_and_does_nothing_twice(rank: None, plain: Path, tmp_path: Path) -> None:
    grid = {"training.learning_rate": [DOES_NOT, LEARNS], "training.freeze": [{"embeddings": True}]}
    recipe = asked(plain, folds=2, grid=grid)
    first = Trains({"trial-1-fold-2": 2})
    with pytest.raises(KeyboardInterrupt):
        search(recipe, tmp_path / "search", first)
    assert first.begun == ["trial-1-fold-1", "trial-1-fold-2"]
    done = (tmp_path / "search/runs/trial-1-fold-1/run.json").read_bytes()
    second = Trains()
    found = search(recipe, tmp_path / "search", second)
    assert second.begun == ["trial-2-fold-1", "trial-2-fold-2"]
    assert second.resumed == ["trial-1-fold-2"]
    assert (tmp_path / "search/runs/trial-1-fold-1/run.json").read_bytes() == done
    assert found["best"]["set"] == {"training.learning_rate": LEARNS, "training.freeze": {"embeddings": True}}
    assert json.loads((tmp_path / "search/search.json").read_text()) == found
    third = Trains()
    assert search(recipe, tmp_path / "search", third) == found
    assert not third.begun + third.resumed
    whole = search(recipe, tmp_path / "whole", Trains())
    assert [row["folds"] for row in whole["trials"]] == [row["folds"] for row in found["trials"]]


def test_an_unpromising_trial_is_given_up_and_a_failed_one_told(rank: None, plain: Path, tmp_path: Path) -> None:
    recipe = asked(plain, folds=2, grid={"training.learning_rate": [LEARNS, DOES_NOT, 2 * LEARNS]})
    with pytest.raises(BertlineError, match="a rank died"):
        search(recipe, tmp_path / "search", Trains(fail=["trial-1-fold-1"] * 2))
    train = Trains(fail=["trial-1-fold-2", "trial-3-fold-1", "trial-3-fold-1"])
    found = search(recipe, tmp_path / "search", train)
    numbers = ["1-fold-1", "1-fold-2", "1-fold-2", "2-fold-1", "3-fold-1", "3-fold-1"]
    assert train.begun == [f"trial-{number}" for number in numbers]
    assert [(row["trial"], row["state"], len(row["folds"])) for row in found["trials"]] == [
        (1, "complete", 2), (2, "pruned", 1), (3, "failed", 0),
    ]  # fmt: skip
    best = found["trials"][0]
    assert best["mean"] == pytest.approx(sum(best["folds"]) / 2)
    assert best["std"] == pytest.approx(abs(best["folds"][0] - best["folds"][1]) / 2**0.5)
    assert best["seconds"] > 0
    for row in found["trials"]:
        for number, score in enumerate(row["folds"], 1):
            fold = runs.read_summary(tmp_path / f"search/runs/trial-{row['trial']}-fold-{number}")
            assert score == fold.test["loss"] != fold.validation["loss"]  # validation has chosen the checkpoint
    shown = "\n".join(map(str, results.table(found).columns[1].cells))
    assert "0.003" in shown
    assert found["estimate"] == {"value": best["mean"], "optimism": 0.0}
    assert "next: bertline train" in results.conclusion(found)


def test_trials_that_fail_one_after_the_other_end_the_search_and_have_another_chance(
    rank: None, plain: Path, tmp_path: Path
) -> None:
    """Once: the third in a row goes by what was seen of the second."""
    recipe = asked(plain, folds=2, grid={"training.learning_rate": [LEARNS, 0.5, 0.7, 1.0, DOES_NOT]})
    failing = [f"trial-{number}-fold-1" for number in (2, 3, 4) for _ in range(2)]
    with pytest.raises(BertlineError, match=r"trials 2 and 3 failed .* retries trial 3 and"):
        search(recipe, tmp_path / "search", Trains(fail=failing))
    left = tmp_path / "search/runs/trial-3-fold-1/checkpoints"
    left.mkdir(parents=True)
    found = search(recipe, tmp_path / "search", Trains(fail=failing))
    states = {row["trial"]: row["state"] for row in found["trials"]}
    assert states == {1: "complete", 2: "failed", 3: "failed", 4: "failed", 5: "pruned"}
    assert not left.exists()


def test_trials_that_fail_before_any_succeeds_end_the_search_once(rank: None, plain: Path, tmp_path: Path) -> None:
    recipe = asked(plain, folds=2, grid={"training.learning_rate": [0.5, 0.7, 1.0, LEARNS]})
    failing = [f"trial-{number}-fold-1" for number in (1, 2, 3) for _ in range(2)]
    with pytest.raises(BertlineError, match="no run has succeeded yet"):
        search(recipe, tmp_path / "search", Trains(fail=failing))
    found = search(recipe, tmp_path / "search", Trains(fail=failing))
    assert {row["trial"]: row["state"] for row in found["trials"]} == {
        1: "failed", 2: "failed", 3: "failed", 4: "complete",
    }  # fmt: skip


def test_a_search_whose_first_trial_fails_goes_on_with_the_second(rank: None, plain: Path, tmp_path: Path) -> None:
    recipe = asked(plain, folds=2, grid={"training.learning_rate": [1.0, LEARNS]})
    failing = ["trial-1-fold-1"] * 2
    with pytest.raises(BertlineError, match=r"no run has succeeded yet \(a rank died\)"):
        search(recipe, tmp_path / "search", Trains(fail=failing))
    train = Trains(fail=failing)
    found = search(recipe, tmp_path / "search", train)
    assert train.begun == [*failing, "trial-2-fold-1", "trial-2-fold-2"]
    assert [(row["trial"], row["state"]) for row in found["trials"]] == [(2, "complete"), (1, "failed")]


def test_a_search_may_be_given_more_trials_or_fewer(rank: None, plain: Path, tmp_path: Path) -> None:
    space = {"training.learning_rate": {"low": LEARNS, "high": 1e-2}}
    search(asked(plain, folds=2, space=space, trials=1), tmp_path / "search", Trains())
    train = Trains()
    found = search(asked(plain, folds=2, space=space, trials=2), tmp_path / "search", train)
    assert train.begun[0] == "trial-2-fold-1"
    assert sorted(row["trial"] for row in found["trials"]) == [1, 2]
    fewer = search(asked(plain, folds=2, space=space, trials=1), tmp_path / "search", train)
    assert fewer["trials"] == found["trials"]


def test_the_best_recipe_trains_and_is_scored_on_texts_that_no_trial_saw(
    rank: None, plain: Path, tmp_path: Path
) -> None:
    recipe = asked(plain, folds=2, space={"training.learning_rate": {"low": LEARNS, "high": 1e-2}}, trials=1)
    found = search(recipe, tmp_path / "search", Trains())
    best = recipes.load(Path(found["best"]["recipe"]))
    assert recipes.with_settings(recipe, found["best"]["set"]).model_copy(update={"search": Search()}) == best
    with pytest.raises(InputError, match=r"search: a search, not a run; .*: bertline train .*/best\.yaml$"):
        runs.model(str(tmp_path / "search"))
    run = train_here(tmp_path / "search/best.yaml", tmp_path / "run")
    assert runs.read_summary(run.path).data == {"train": 60, "validation": 20, "test": 30}
    test = {json.loads(line)["text"] for line in run.split("test").read_text().splitlines()}
    seen = "".join(path.read_text() for path in (tmp_path / "search/folds").rglob("*.jsonl"))
    assert len(test) == 30
    assert not [text for text in test if text in seen]
    kept = sorted(path.name for path in (tmp_path / "search/runs/trial-1-fold-1").iterdir())
    assert kept == ["metrics.jsonl", "recipe.yaml", "run.json"]


def test_what_a_search_does_not_go_on_with(rank: None, plain: Path, tmp_path: Path) -> None:
    recipe = asked(plain, folds=2, grid={"training.learning_rate": [LEARNS]})
    with pytest.raises(KeyboardInterrupt):
        search(recipe, tmp_path / "search", Trains({"trial-1-fold-1": 1}))
    other = recipes.with_settings(recipe, {"search.folds": 3, "training.epochs": 2})
    with pytest.raises(InputError) as caught:
        search(other, tmp_path / "search", Trains())
    assert [fault.partition(" when ")[0] for fault in caught.value.faults] == [
        "search.folds: 3 now, 2", "training.epochs: 2 now, 10",
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"a search, not a run; resume it: bertline search .*recipe\.yaml -o"):
        runs.read_summary(tmp_path / "search")
    with pytest.raises(InputError, match="a search, not a run"):
        train_here(tmp_path / "search/recipe.yaml", tmp_path / "search", resume=True)
    lock = files.locked(tmp_path / "search/lock", "")
    with lock, pytest.raises(InputError, match="another process searches there"):
        search(recipe, tmp_path / "search", Trains())
    texts = Path(str(recipe.data.train))
    before = texts.read_text()
    texts.write_text(before + before.splitlines()[0].replace("text", "text") + "\n")
    with pytest.raises(InputError, match="the data is not what the search began with"):
        search(recipe, tmp_path / "search", Trains())
    texts.write_text(before)
    (tmp_path / "else").mkdir()
    with pytest.raises(InputError, match="else: exists and is not a search"):
        search(recipe, tmp_path / "else", Trains())


def test_what_changes_no_batch_may_be_other_when_a_search_goes_on(rank: None, plain: Path, tmp_path: Path) -> None:
    """The runs that are left get it, the one that was begun among them."""
    recipe = asked(plain, folds=2, grid={"training.learning_rate": [LEARNS]})
    with pytest.raises(KeyboardInterrupt):
        search(recipe, tmp_path / "search", Trains({"trial-1-fold-2": 2}))
    other = recipes.with_settings(recipe, {"training.micro_batch_size": 2, "training.timeout": 100})
    train = Trains()
    search(other, tmp_path / "search", train)
    assert (train.resumed, train.begun) == (["trial-1-fold-2"], [])
    paths = [tmp_path / "search/recipe.yaml", *sorted((tmp_path / "search/runs").glob("*/recipe.yaml"))]
    assert [recipes.read(path).training.micro_batch_size for path in paths] == [2, None, 2]


def scored(recipe: Recipe, path: Path, stop: int = 100) -> list[dict[str, Any]]:
    """The trials of a search whose score is a formula; every `stop` trials the study is left in the midst of one."""
    kept = study.opened(recipe, path)
    while (trial := study.following(kept, recipe)) is not None:
        if trial.number and trial.number % stop == 0 and "seen" not in trial.user_attrs:
            trial.set_user_attr("seen", True)
            kept = study.opened(recipe, path)
            continue
        values = study.settings(trial)
        score = 1 - abs(values["training.dropout"] - 0.3) - 0.001 * values["training.epochs"]
        study.report(kept, trial, [score, score + 0.01])
        kept.tell(trial, score)
    return [study.settings(one) for one in kept.trials]


SPACE = {"training.dropout": {"low": 0.0, "high": 0.6}, "training.epochs": [1, 2], "training.zero_stage": [1]}


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_sampler_goes_on_as_if_it_had_not_been_interrupted(plain: Path, tmp_path: Path, sampler: str) -> None:
    recipe = asked(plain, space=SPACE, trials=14, sampler=sampler)
    found = scored(recipe, tmp_path / "whole.log")
    assert len(found) == 14
    assert len({one["training.dropout"] for one in found}) == 14
    assert scored(recipe, tmp_path / "parts.log", stop=3) == found
    other = recipes.with_settings(recipe, {"training.seed": 7})
    assert scored(other, tmp_path / "other.log") != found


def test_a_logarithmic_range_is_drawn_so(plain: Path, tmp_path: Path) -> None:
    space = {"training.learning_rate": {"low": 1e-6, "high": 1e-2, "log": True}}
    recipe = asked(plain, space=space, trials=20, sampler="random")
    kept, rates = study.opened(recipe, tmp_path / "study.log"), []
    while (trial := study.following(kept, recipe)) is not None:
        rates.append(study.settings(trial)["training.learning_rate"])
        kept.tell(trial, 0.5)
    assert sum(rate < 1e-4 for rate in rates) > 4  # drawn evenly, it would be one in a hundred


def test_a_range_is_of_whole_numbers_where_its_key_is(plain: Path, tmp_path: Path) -> None:
    ranges = SPACE | {"training.weight_decay": {"low": 0, "high": 1}, "training.epochs": {"low": 1, "high": 9}}
    found = scored(asked(plain, space=ranges, trials=6), tmp_path / "study.log")
    assert len({one["training.weight_decay"] for one in found} - {0, 1}) == 6
    assert {type(one["training.epochs"]) for one in found} == {int}
    fractions = ["training.class_weights.positive", "training.max_grad_norm", "distillation.temperature"]
    whole = ["training.batch_size", "training.freeze.layers", "student.intermediate_size"]
    assert [study._takes_fractions(key) for key in [*fractions, *whole]] == [True] * 3 + [False] * 3


def test_a_sampler_learns_from_trials_that_fail(plain: Path, tmp_path: Path) -> None:
    recipe = asked(plain, space={"training.dropout": {"low": 0.0, "high": 0.6}}, trials=30)
    kept = study.opened(recipe, tmp_path / "study.log")
    while (trial := study.following(kept, recipe)) is not None:
        if (dropout := study.settings(trial)["training.dropout"]) > 0.1:
            study.fail(kept, trial)
        else:
            study.report(kept, trial, [dropout])
            kept.tell(trial, dropout)
    assert sum(study.has_failed(trial) for trial in kept.trials[-10:]) <= 5
    assert results.rank(kept, "accuracy")[-1]["state"] == "failed"


def test_trials_with_equal_settings_have_the_number_of_their_runs(plain: Path, tmp_path: Path) -> None:
    recipe = asked(plain, space={"training.zero_stage": [1]}, trials=2)
    kept = study.opened(recipe, tmp_path / "study.log")
    for scores in ([0.5], [0.5, 0.6]):
        trial = study.following(kept, recipe)
        assert trial is not None
        assert study.number(kept, trial) == 1
        study.report(kept, trial, scores)
        kept.tell(trial, 0.5)
    assert [(row["trial"], row["folds"]) for row in results.rank(kept, "accuracy")] == [(1, [0.5, 0.6])]


def test_a_journal_that_a_kill_has_cut_off_is_read(plain: Path, tmp_path: Path) -> None:
    recipe = asked(plain, space=SPACE, trials=3)
    found = scored(recipe, tmp_path / "study.log")
    with (tmp_path / "study.log").open("a") as stream:
        stream.write('{"op_code": 4, "wor')
    (tmp_path / "study.log.lock").symlink_to("study.log")
    assert scored(recipe, tmp_path / "study.log") == found


def test_what_mattered_is_drawn_where_trials_tell(plain: Path, tmp_path: Path) -> None:
    few = asked(plain, space=SPACE, trials=3)
    scored(few, tmp_path / "few.log")
    told = importance.draw(study.opened(few, tmp_path / "few.log"), few, tmp_path / "few.svg")
    assert "3 trials are too few" in told
    assert not (tmp_path / "few.svg").exists()
    many = asked(plain, space=SPACE, trials=12)
    scored(many, tmp_path / "many.log")
    importance.draw(study.opened(many, tmp_path / "many.log"), many, tmp_path / "many.svg")
    drawn = ElementTree.parse(tmp_path / "many.svg").getroot()
    words = [part.text.strip() for part in drawn.iter("{http://www.w3.org/2000/svg}text") if part.text]
    assert words.index("training.dropout") < words.index("training.epochs")
    assert any(word.endswith("%") and int(word[:-1]) > 80 for word in words)


@pytest.mark.parametrize("step", [0.0, 1e-9])
def test_nothing_is_drawn_of_scores_that_are_alike(plain: Path, tmp_path: Path, step: float) -> None:
    recipe = asked(plain, space=SPACE, trials=9)
    kept = study.opened(recipe, tmp_path / "study.log")
    while (trial := study.following(kept, recipe)) is not None:
        score = 0.69314718 + trial.number * step
        study.report(kept, trial, [score])
        kept.tell(trial, score)
    assert importance.draw(kept, recipe, tmp_path / "drawn.svg").endswith("not drawn: all trials score alike")
    assert not (tmp_path / "drawn.svg").exists()


def test_settings_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    key, value = "training.class_weights.[/INST]", "[happy] :joy:"
    row = {"trial": 1, "set": {key: value}, "mean": 0.5, "std": 0.0, "folds": [0.5], "seconds": 1, "state": "complete"}
    found = {"metric": "f1", "best": {**row, "recipe": "best.yaml"}, "trials": [row]}
    results.show({**found, "estimate": {"value": 0.5, "optimism": 0.0}})
    told = capsys.readouterr().err
    assert (told.count("[/INST]"), told.count(value)) == (2, 2)


@pytest.mark.parametrize(("metric", "sign"), [("accuracy", 1), ("loss", -1)])
def test_what_is_to_be_expected(metric: str, sign: int) -> None:
    folds = [[0.8, 0.9, 0.7], [0.9, 0.7, 0.7], [0.95]]
    ranked = [{"folds": [sign * score for score in each], "mean": sign * 0.8} for each in folds]
    found = results.estimate(ranked, metric)
    assert found == pytest.approx({"value": sign * 0.75, "optimism": 0.05})  # (0.15 + 0 + 0) / 3


def command(folder: Path, plain: Path, **search: Any) -> list[str]:
    """The command line of a search of a second or two a run, by DeepSpeed's launcher."""
    raw = yaml.safe_load(plain.read_text())
    raw["training"] |= {"epochs": 20, "eval_steps": 1000, "save_steps": 1000}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(raw | {"search": {"folds": 2, **search}}))
    return ["search", str(folder / "tiny.yaml"), "--set", TAKE, "--ranks", "1", "-o", str(folder / "out"), "--json"]


def stopped(arguments: list[str], training: Path) -> str:
    """What the command says on SIGTERM, sent when a run has taken a step; its steps are slow ones."""
    line = [str(Path(sys.executable).with_name("bertline")), *arguments, "--set", "training.micro_batch_size=1"]
    searching = subprocess.Popen(line, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    metrics = RunFolder(training).metrics
    while searching.poll() is None and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.05)
    searching.send_signal(signal.SIGTERM)
    _, words = searching.communicate(timeout=600)
    assert searching.returncode == PreemptedError.exit_code, words
    return words


def test_the_command_is_stopped_and_goes_on(rank: None, plain: Path, tmp_path: Path) -> None:
    arguments = command(tmp_path, plain, grid={"training.learning_rate": [LEARNS]})
    words = stopped(arguments, tmp_path / "out/runs/trial-1-fold-1")
    assert f"{tmp_path}/out: stopped as asked; the same command resumes it" in words
    assert "trial 1/1: training.learning_rate=0.003" in words
    assert list((tmp_path / "out/runs/trial-1-fold-1/checkpoints").glob("step-*"))
    train = Trains()
    found = search(recipes.load(tmp_path / "tiny.yaml", [TAKE], searches=True), tmp_path / "out", train)
    assert (train.resumed, train.begun) == (["trial-1-fold-1"], ["trial-1-fold-2"])
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout) == found
    assert "1 trials, 0:00:" in done.stderr
    assert f"next: bertline train {tmp_path}/out/best.yaml" in done.stderr


@pytest.mark.faults
@pytest.mark.parametrize("launcher", [False, True])
def test_ranks_that_a_kill_has_left_are_waited_for(plain: Path, tmp_path: Path, launcher: bool) -> None:
    """They finish the run; if their launcher was killed, too, they leave a checkpoint."""
    arguments = command(tmp_path, plain, grid={"training.learning_rate": [LEARNS]})
    run = RunFolder(tmp_path / "out/runs/trial-1-fold-1")
    line = [str(Path(sys.executable).with_name("bertline")), *arguments, "--set", "training.epochs=400"]
    searching = subprocess.Popen(line, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while searching.poll() is None and not (run.metrics.exists() and run.metrics.stat().st_size):
        time.sleep(0.05)
    (launching,) = psutil.Process(searching.pid).children()
    searching.kill()
    searching.wait()
    if launcher:
        launching.kill()
    again = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
    assert again.returncode == 0, again.stderr
    steps = [json.loads(text)["step"] for text in run.metrics.read_text().splitlines()]
    assert steps == sorted(steps), "one process at a time wrote them"
    finished = "trial-1-fold-1: test" not in again.stderr  # by the ranks that were left
    assert finished != launcher
    assert ("resumed at step" in again.stderr) == launcher
    assert "trial 1/1, fold 2/2" in again.stderr


def test_a_run_that_ranks_without_a_launcher_finish_is_not_made_again(plain: Path, tmp_path: Path) -> None:
    job = trials.Job(tmp_path / "recipe.yaml", tmp_path / "run", recipes.load(plain))
    made: list[Path] = []
    with files.locked(cache.lock_of(job.run), "busy"):
        doing = threading.Thread(target=trials.do, args=(job, lambda path, run, resume: made.append(run)))
        doing.start()
        doing.join(0.5)
        assert doing.is_alive()
        files.write_json(RunFolder(job.run).summary, {})
    doing.join(60)
    assert not doing.is_alive()
    assert not made


@pytest.mark.faults
def test_a_whole_search_by_the_command(plain: Path, tmp_path: Path) -> None:
    """Two trials of two folds; stopped once while the second fold of the first trains."""
    arguments = command(tmp_path, plain, grid={"training.learning_rate": [LEARNS, DOES_NOT]})
    arguments += ["--set", "training.best=loss"]
    runs_of = tmp_path / "out/runs"
    stopped(arguments, runs_of / "trial-1-fold-2")
    done = (runs_of / "trial-1-fold-1/run.json").read_bytes()
    line = [str(Path(sys.executable).with_name("bertline")), *arguments]
    again = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
    assert again.returncode == 0, again.stderr
    assert "resumed at step" in again.stderr
    assert "trial 2/2: pruned" in again.stderr
    assert (runs_of / "trial-1-fold-1/run.json").read_bytes() == done
    assert len(list(runs_of.glob("*/run.json"))) == 3
    found = json.loads(again.stdout)
    assert [(row["state"], len(row["folds"])) for row in found["trials"]] == [("complete", 2), ("pruned", 1)]
    assert found["best"]["set"] == {"training.learning_rate": LEARNS}

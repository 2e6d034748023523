"""Bulk prediction: order, a bound on what is under way, kills, bad rows, and each kind of output."""

import csv
import errno
import fcntl
import gzip
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import ipc, parquet

from bertline.artifacts import files, tables
from bertline.artifacts.bundle import MANIFEST, Packing
from bertline.artifacts.errors import InputError
from bertline.artifacts.readers.attempt import Attempt
from bertline.serve import Model, bulk, formats, load, unfinished
from bertline.serve.bulk import Seen
from bertline.serve.runtimes import OnnxRuntime
from bertline.serve.unfinished import Unfinished
from bertline.tasks.task import Output
from bertline.tasks.tokens import Batch
from tests.conftest import make_texts

PROCESS = """
import itertools, os, signal, sys
from pathlib import Path
from bertline.serve import bulk, load, unfinished
unfinished.SECONDS, unfinished.monotonic = 50, itertools.count().__next__  # a save every fifty rows
bundle, source, target, errors = map(Path, sys.argv[1:5])
place, left = sys.argv[5], int(sys.argv[6])

def traced(frame, event, argument):
    global left
    if frame.f_code.co_filename == unfinished.__file__ and frame.f_code.co_name == place:
        left -= event == "line"
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return traced

sys.settrace(traced)
with load(bundle) as model:
    bulk.predict(model, source, target, errors, print, lambda seen: None)
"""
"""Killed before the given line, by count, of a function of `serve.unfinished`."""


def sha256(bundle: Path) -> str:
    """Of its manifest."""
    return files.sha256(bundle / MANIFEST)


@pytest.fixture(scope="module")
def model(sealed: Path) -> Iterator[Model]:
    with load(sealed) as loaded:
        yield loaded


class Predict:
    """`bulk.predict` of one bundle, keeping what it says."""

    def __init__(self, model: Model, folder: Path) -> None:
        self.model, self.folder = model, folder
        self.said: list[str] = []
        self.seen: list[Seen] = []

    def __call__(self, source: Path, target: Path, errors: Path | None = None) -> list[dict[str, Any]]:
        bulk.predict(self.model, source, target, errors, self.said.append, self.seen.append)
        return lines(target) if target.suffix == ".jsonl" else []


@pytest.fixture
def predict(model: Model, sealed: Path) -> Predict:
    return Predict(model, sealed)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_rows(path: Path, count: int) -> Path:
    path.write_text("".join(json.dumps({"text": row["text"]}) + "\n" for row in make_texts(count, 3)))
    return path


def test_rows_are_answered_in_order_each_with_its_number(predict: Predict, tmp_path: Path) -> None:
    rows = make_texts(300, 2)
    (tmp_path / "in.jsonl").write_text("\n" + "".join(json.dumps(row) + "\n" for row in rows))
    answers = predict(tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert [answer["row"] for answer in answers] == list(range(2, 302))
    for number in (0, 150, 299):
        alone = predict.model.predict([rows[number]["text"]])[0]
        assert answers[number]["scores"] == pytest.approx(alone.scores, abs=1e-5)  # type: ignore[union-attr]
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["in.jsonl", "out.jsonl"]
    assert predict.seen[-1] == Seen(300, *[(tmp_path / "in.jsonl").stat().st_size] * 2)


def test_a_file_may_call_its_columns_otherwise(predict: Predict, sealed: Path, tmp_path: Path) -> None:
    rows = make_texts(8, 2)
    source, target = tmp_path / "in.csv", tmp_path / "out.jsonl"
    source.write_text("text,body\n" + "".join(f"other,{row['text']}\n" for row in rows))

    def asked(columns: dict[str, str]) -> None:
        bulk.predict(predict.model, source, target, None, print, lambda seen: None, columns)

    asked({"text": "body"})
    alone = predict.model.predict([row["text"] for row in rows])
    for answer, expected in zip(lines(target), alone, strict=True):
        assert answer["scores"] == pytest.approx(expected.scores, abs=1e-5)  # type: ignore[union-attr]
    target.unlink()
    with pytest.raises(InputError, match=r"no column 'words'; it has text, body; name the column .* --column text="):
        asked({"text": "words"})
    with pytest.raises(InputError, match="no column is called 'body' here; known are text, label"):
        asked({"body": "text"})
    with Unfinished(target, None, source, sha256(sealed), print, {"text": "body"}) as begun:
        begun.answer({"row": 2})
    with pytest.raises(InputError, match=r"1 row answered already, but with \{'text': 'body'\} --column; remove"):
        asked({})


def test_few_rows_are_under_way(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = 0

    def endless() -> Iterator[Attempt]:
        nonlocal taken
        while True:
            taken += 1
            yield Attempt(f"row {taken}", taken, {"text": "a text of 24 characters."})

    for name, bound in (("ROWS", 10), ("CHARACTERS", 240)):
        with monkeypatch.context() as patch:
            patch.setattr(bulk, name, bound)
            taken = 0
            found = bulk.answers(model, endless())
            assert all(taken - outcome.row <= 10 for outcome, _ in zip(found, range(100), strict=False))
            assert taken > 100


def test_a_process_that_is_killed_at_any_moment_goes_on_where_it_was(
    predict: Predict, sealed: Path, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "in.jsonl", 500)
    source.write_text(source.read_text() + "not JSON\n" + source.read_text())
    whole = predict(source, tmp_path / "whole.jsonl", tmp_path / "whole-bad.jsonl")
    assert len(whole) == 1000
    files_given = [sealed, source, tmp_path / "out.jsonl", tmp_path / "bad.jsonl"]
    command = [sys.executable, "-c", PROCESS, *map(str, files_given)]
    journal = tmp_path / ".out.jsonl.unfinished/journal.json"
    for place, lines in (("_save", 11), ("_save", 13), ("_save", 16), ("_save", 20), ("_append", 90)):
        killed = subprocess.run([*command, place, str(lines)], stdout=subprocess.DEVNULL, check=False, timeout=600)
        assert killed.returncode == -signal.SIGKILL
        assert not (tmp_path / "out.jsonl").exists()
    assert 0 < json.loads(journal.read_text())["rows"] < 1001
    last = subprocess.run([*command, "", "0"], check=True, capture_output=True, text=True, timeout=600)
    assert "resuming after " in last.stdout
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert (tmp_path / "bad.jsonl").read_bytes() == (tmp_path / "whole-bad.jsonl").read_bytes()
    assert not journal.parent.exists()


def test_what_was_written_after_the_last_save_is_cut_off(predict: Predict, sealed: Path, tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", 20)
    whole = predict(source, tmp_path / "whole.jsonl")
    with Unfinished(tmp_path / "out.jsonl", None, source, sha256(sealed), print) as begun:
        for answer in whole[:7]:
            begun.answer(answer)
    with (tmp_path / ".out.jsonl.unfinished/answers.jsonl").open("a") as stream:
        stream.write('{"row": 8, "label": "posi')
    assert predict(source, tmp_path / "out.jsonl") == whole
    assert predict.said[-2].endswith("out.jsonl: resuming after 7 rows")


def test_what_is_of_another_input_or_bundle_is_refused_and_kept(
    predict: Predict, sealed: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    source, other = write_rows(tmp_path / "in.jsonl", 5), write_rows(tmp_path / "other.jsonl", 5)
    target = tmp_path / "out.jsonl"
    with Unfinished(target, None, source, sha256(sealed), print) as begun:
        begun.answer({"row": 1})
    with pytest.raises(InputError, match=r"1 row answered already, but from another input, .*/in\.jsonl; remove "):
        Unfinished(target, None, other, sha256(sealed), print)
    manifest = tiny_bundle / "bertline.json"
    manifest.write_text(manifest.read_text() + "\n")
    with pytest.raises(InputError, match="but by another bundle; remove "):
        Unfinished(target, None, source, sha256(tiny_bundle), print)
    source.write_text(source.read_text() + "\n")
    with pytest.raises(
        InputError, match=r"in\.jsonl has changed since; remove .*\.out\.jsonl\.unfinished to start over"
    ):
        predict(source, target)
    assert (tmp_path / ".out.jsonl.unfinished/answers.jsonl").read_text() == '{"row": 1}\n'


@pytest.mark.parametrize(("seconds", "told"), [(math.inf, "5 rows"), (-math.inf, "2 rows")])
def test_an_input_that_is_changed_while_it_is_read_is_refused(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, told: str
) -> None:
    """The rows of a batch job that writes it still, or half of them before and half of them after a change.

    It is told at the end, and whenever a step is due.
    """
    monkeypatch.setattr(unfinished, "SECONDS", seconds)
    source, target = write_rows(tmp_path / "in.jsonl", 5), tmp_path / "out.jsonl"

    def change(seen: Seen) -> None:
        with source.open("a") as stream:
            stream.write('{"text": "more"}\n')

    with pytest.raises(InputError, match=rf"{told} answered already, but .*/in\.jsonl has changed since; remove "):
        bulk.predict(model, source, target, None, print, change)
    assert not target.exists()


def test_an_input_may_be_renamed_or_removed_while_it_is_read(model: Model, tmp_path: Path) -> None:
    source, target = write_rows(tmp_path / "in.jsonl", 5), tmp_path / "out.jsonl"
    bulk.predict(model, source, target, None, print, lambda _: source.unlink(missing_ok=True))
    assert len(lines(target)) == 5


def test_a_second_process_at_the_same_output_is_refused(predict: Predict, sealed: Path, tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", 5)
    with (
        Unfinished(tmp_path / "out.jsonl", None, source, sha256(sealed), print),
        pytest.raises(InputError, match=r"out\.jsonl: another process is writing it"),
    ):
        predict(source, tmp_path / "out.jsonl")
    assert len(predict(source, tmp_path / "out.jsonl")) == 5


def test_a_pipe_is_refused(predict: Predict, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "in.jsonl")
    with pytest.raises(InputError, match="a pipe, which cannot be read again after a kill"):
        predict(tmp_path / "in.jsonl", tmp_path / "out.jsonl")


def test_what_is_gone_on_with_is_the_bundle_that_answers(
    predict: Predict, sealed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another may lie in its place by now."""
    source = write_rows(tmp_path / "in.jsonl", 5)
    with Unfinished(tmp_path / "out.jsonl", None, source, sha256(sealed), print) as begun:
        begun.answer({"row": 1})
    monkeypatch.setattr(predict.model, "sha256", "another")
    with pytest.raises(InputError, match="but by another bundle"):
        predict(source, tmp_path / "out.jsonl")


def test_a_full_disk_keeps_no_lock_and_takes_the_place_of_no_other_fault(sealed: Path, tmp_path: Path) -> None:
    given = (tmp_path / "out.jsonl", None, write_rows(tmp_path / "in.jsonl", 5), sha256(sealed), print)

    def fail() -> None:
        with Path("/dev/full").open("wb") as full, Unfinished(*given) as unfinished:
            unfinished._answers.close()
            unfinished._answers = full
            unfinished.answer({"row": 1})
            raise InputError("a bad row")

    with pytest.raises(InputError, match="a bad row"):
        fail()
    with Unfinished(*given):
        pass


def test_a_disk_may_have_no_locks(predict: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    answers = predict(write_rows(tmp_path / "in.jsonl", 5), tmp_path / "out.jsonl", tmp_path / "bad.jsonl")
    assert len(answers) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.jsonl", "in.jsonl", "out.jsonl"]


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv"])
def test_an_output_is_made_on_nfs_and_nothing_of_it_left(
    nfs: None, predict: Predict, tmp_path: Path, name: str
) -> None:
    """But the lock, which NFS removes with its folder once it is closed."""
    source = write_rows(tmp_path / "in.jsonl", 5)
    predict(source, tmp_path / name, tmp_path / "errors.jsonl")
    assert [path.name[:4] for path in (tmp_path / f".{name}.unfinished").iterdir()] == [".nfs"]
    with pytest.raises(InputError, match="exists already"):
        predict(source, tmp_path / name)


@pytest.mark.parametrize(
    ("source", "errors"),
    [("caf\udce9/in.jsonl", None), ("link-\udce9.jsonl", None), ("in.jsonl", "caf\udce9/bad.jsonl")],
)
def test_names_that_cannot_be_written_down_are_refused(
    predict: Predict, tmp_path: Path, source: str, errors: str | None
) -> None:
    """Of bytes that are not UTF-8, as Python has them."""
    (tmp_path / "caf\udce9").mkdir()
    for name in ("in.jsonl", "caf\udce9/in.jsonl"):
        write_rows(tmp_path / name, 5)
    (tmp_path / "link-\udce9.jsonl").symlink_to("in.jsonl")
    with pytest.raises(InputError, match="a name that is not UTF-8 cannot be recorded; rename it"):
        predict(tmp_path / source, tmp_path / "out.jsonl", None if errors is None else tmp_path / errors)
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_outputs_that_exist_are_refused_and_nothing_is_left(predict: Predict, tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", 5)
    (tmp_path / "there").write_text("mine")
    for target, errors in ((tmp_path / "there.jsonl", tmp_path / "there"), (tmp_path / "there", None)):
        with pytest.raises(InputError, match=r"there exists already|there: answers are written as"):
            predict(source, target, errors)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["in.jsonl", "there"]


BAD = {
    "in.jsonl": (
        b'{"text": "a"}\n{"text": \n[1]\n{"other": 1}\n{"text": 5}\n\n{"text": "\\ud83d"}\n{"text": "\xe9"}\n'
        b'{"text": "nul\0"}\n{"text": "z"}\n',
        [1, 10],
        [(2, "not JSON"), (3, "a list where"), (4, "holds nothing"), (5, "holds a int"), (7, "a lone surrogate"),
         (8, "not UTF-8 (byte 0xe9)"), (9, "holds a NUL")],
    ),
    "in.csv": (
        b'text,more\n"two\nlines",b\nc\nx,d,e\n"f"g,h\n\xe9,i\nz,j\n',
        [2, 7],
        [(3, "1 fields where the header has 2"), (4, "3 fields where"), (5, "expected after"), (6, "not UTF-8")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_rows_are_told_and_the_rest_goes_on(predict: Predict, tmp_path: Path, name: str) -> None:
    content, good, bad = BAD[name]
    (tmp_path / name).write_bytes(content)
    answers = predict(tmp_path / name, tmp_path / "out.jsonl", tmp_path / "bad.jsonl")
    assert [answer["row"] for answer in answers] == good
    told = lines(tmp_path / "bad.jsonl")
    assert [fault["row"] for fault in told] == [row for row, _ in bad]
    assert all(words in fault["reason"] for fault, (_, words) in zip(told, bad, strict=True))
    assert {fault["file"] for fault in told} == {str(tmp_path / name)}
    assert [fault["line"] for fault in told] == ([row for row, _ in bad] if name == "in.jsonl" else [4, 5, 6, 7])
    assert predict.said == [
        f"{tmp_path / 'out.jsonl'}: 2 answers; bad rows: {len(bad)}, listed in {tmp_path / 'bad.jsonl'}"
    ]


@pytest.mark.parametrize("errors", [None, "bad.jsonl"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("in.csv", "id,body,queue\n1,a,b\n"),
        ("in.csv", "id,body,queue\n1,a\n1,a,b\n"),
        ("in.jsonl", 'no\n{"id": 1}\n{"body": "a", "queue": "b"}\n'),
    ],
)
def test_a_file_without_the_column_is_refused_before_any_row_is_answered(
    predict: Predict, tmp_path: Path, errors: str | None, name: str, content: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=rf"{name} has no column 'text'; it has id, body, queue; name the column "):
        predict(tmp_path / name, tmp_path / "out.jsonl", tmp_path / errors if errors else None)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_json_line_without_the_key_is_a_bad_row(predict: Predict, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"id": 1}\n{"id": 2, "text": "a"}\n')
    assert len(predict(tmp_path / "in.jsonl", tmp_path / "out.jsonl", tmp_path / "bad.jsonl")) == 1


def test_a_row_for_which_the_model_computes_nan_is_bad_and_those_beside_it_are_not(
    predict: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = OnnxRuntime.run

    def overflows(self: OnnxRuntime, batch: Batch) -> Output:
        return run(self, batch) * np.where((batch["attention_mask"].sum(axis=1) > 20)[:, None], np.nan, 1)

    monkeypatch.setattr(OnnxRuntime, "run", overflows)
    monkeypatch.setattr(predict.model.bundle, "packing", Packing(tokens=64, texts=8, gains={}))
    rows = ["a good film", "good " * 30, *["a bad film"] * 20]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    with pytest.raises(InputError, match=r"line 2: no answer: tiny computes NaN or infinite numbers .*; what was done"):
        predict(tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    answers = predict(tmp_path / "in.jsonl", tmp_path / "out.jsonl", tmp_path / "bad.jsonl")
    assert [answer["row"] for answer in answers] == [1, *range(3, 23)]
    (fault,) = lines(tmp_path / "bad.jsonl")
    assert (fault["row"], "line 2: no answer: tiny computes NaN" in fault["reason"]) == (2, True)


def test_plain_text_is_no_file_of_texts(predict: Predict, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("a good film\n")
    with pytest.raises(InputError, match=r"in.txt: a .txt file is read as CoNLL, .*; put texts into JSON lines or CSV"):
        predict(tmp_path / "in.txt", tmp_path / "out.jsonl")


def test_a_file_of_bad_rows_alone_ends_in_a_fault(predict: Predict, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": 1}\n{"text": null}\n')
    with pytest.raises(InputError, match=r"in.jsonl: none of its rows could be answered; .*bad.jsonl says why"):
        predict(tmp_path / "in.jsonl", tmp_path / "out.jsonl", tmp_path / "bad.jsonl")
    assert [fault["row"] for fault in lines(tmp_path / "bad.jsonl")] == [1, 2]


def test_a_string_of_parquet_that_is_no_text_is_a_bad_row(predict: Predict, tmp_path: Path) -> None:
    table = pa.table({"text": pa.array([b"a", b"\xff", b"c"]).view(pa.string())})
    parquet.write_table(table, tmp_path / "in.parquet")
    answers = predict(tmp_path / "in.parquet", tmp_path / "out.jsonl", tmp_path / "bad.jsonl")
    assert [answer["row"] for answer in answers] == [1, 3]
    (fault,) = lines(tmp_path / "bad.jsonl")
    assert fault["row"] == 2
    assert fault["reason"].startswith("row 2: holds a string that is not UTF-8")
    assert predict.seen[-1] == Seen(3, 3, 3)


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_columns_that_are_not_read_may_hold_anything(predict: Predict, tmp_path: Path, kind: str) -> None:
    late = pa.array([1 << 40, None], pa.timestamp("s"))  # a year that Python does not count to
    table = pa.Table.from_arrays([pa.array(["good", "bad"]), late, late], ["text", "seen", "seen"])
    if kind == "parquet":
        parquet.write_table(table, tmp_path / "in.parquet")
    else:
        with ipc.new_file(tmp_path / "in.arrow", table.schema) as writer:
            writer.write_table(table)
    assert [answer["row"] for answer in predict(tmp_path / f"in.{kind}", tmp_path / "out.jsonl")] == [1, 2]


def test_the_first_bad_row_ends_it_and_what_was_done_is_kept(predict: Predict, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "a"}\n{"text": "b"}\nno\n{"text": "c"}\n')
    with pytest.raises(
        InputError, match=r"line 3: not JSON.*; what was done before it \(2 rows\) is kept; the same command with --er"
    ):
        predict(source, tmp_path / "out.jsonl")
    answers = predict(source, tmp_path / "out.jsonl", tmp_path / "bad.jsonl")
    assert [answer["row"] for answer in answers] == [1, 2, 4]
    assert predict.said[0].endswith("resuming after 2 rows")


def test_ctrl_c_between_two_counts_has_no_row_done_again(
    predict: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_rows(tmp_path / "in.jsonl", 5)
    done = Unfinished._done

    def interrupted(self: Unfinished, **more: int) -> None:
        if self.journal.rows == 3:
            raise KeyboardInterrupt
        done(self, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Unfinished, "_done", interrupted)
        with pytest.raises(KeyboardInterrupt):
            predict(source, tmp_path / "out.jsonl")
    assert [answer["row"] for answer in predict(source, tmp_path / "out.jsonl")] == [1, 2, 3, 4, 5]


def _kill_at_the_end(predict: Predict, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows are done, and bad.jsonl is there, but not out.jsonl."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files, "publish", killed)
        with pytest.raises(KeyboardInterrupt):
            predict(source, source.with_name("out.jsonl"), source.with_name("bad.jsonl"))


def test_a_kill_while_the_outputs_are_made_loses_nothing(
    predict: Predict, sealed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_rows(tmp_path / "in.jsonl", 5)
    _kill_at_the_end(predict, source, monkeypatch)
    assert (tmp_path / "bad.jsonl").exists()
    assert len(predict(source, tmp_path / "out.jsonl", tmp_path / "bad.jsonl")) == 5


def test_every_kind_of_output_has_the_same_answers(
    predict: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "ROWS", 2)  # the last batch of Parquet has no truncated text
    source = tmp_path / "in.jsonl"
    texts = ["a good film", "good " * 99, 'say "so"']  # only the second is truncated
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    expected = predict(source, tmp_path / "out.jsonl")
    for name in ("out.jsonl.gz", "out.csv", "out.parquet"):
        predict(source, tmp_path / name)
    assert gzip.decompress((tmp_path / "out.jsonl.gz").read_bytes()) == (tmp_path / "out.jsonl").read_bytes()
    predict(source, tmp_path / "again.jsonl.gz")
    packed = [(tmp_path / name).read_bytes() for name in ("out.jsonl.gz", "again.jsonl.gz")]
    assert packed[0] == packed[1]  # whenever it was written, under whatever name
    assert packed[0][3:8] == bytes(5)
    found = [row for _, row in tables.rows(tmp_path / "out.parquet")]
    assert found == [{"truncated": None} | answer for answer in expected]
    assert list(found[0]) == ["row", "label", "score", "scores", "truncated"]
    with (tmp_path / "out.csv").open(newline="") as stream:
        cells = list(csv.DictReader(stream))
    assert [json.loads(row["scores"]) for row in cells] == [answer["scores"] for answer in expected]
    assert [row["truncated"] for row in cells] == ["", "true", ""]
    assert [(int(row["row"]), row["label"], float(row["score"])) for row in cells] == [
        (answer["row"], answer["label"], answer["score"]) for answer in expected
    ]


def test_a_cell_keeps_its_line_ends(tmp_path: Path) -> None:
    answers = [{"row": "1", "answer": answer} for answer in ("as it was", "a\rb", "a\nb", "a\r\nb", "\r", '"\r"')]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    path = formats.made(tmp_path / "answers.jsonl", tmp_path / "out.csv")
    assert path.read_bytes().startswith(b'row,answer\n1,as it was\n"1","a\rb"\n1,"a\nb"\n')
    assert [row for _, row in tables.rows(path)] == answers


def test_bad_rows_are_not_lost_by_leaving_out_where_they_were_told(
    predict: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_rows(tmp_path / "in.jsonl", 5)
    source.write_text("not JSON\n" + source.read_text())
    _kill_at_the_end(predict, source, monkeypatch)
    with pytest.raises(InputError, match=r"6 rows done with --errors .*bad\.jsonl; pass that or"):
        predict(source, tmp_path / "out.jsonl")
    assert len(predict(source, tmp_path / "out.jsonl", tmp_path / "other.jsonl")) == 5
    assert (tmp_path / "other.jsonl").read_text() == (tmp_path / "bad.jsonl").read_text() != ""


def test_bad_rows_of_two_outputs_do_not_overwrite_each_other(predict: Predict, sealed: Path, tmp_path: Path) -> None:
    source, errors = write_rows(tmp_path / "in.jsonl", 5), tmp_path / "bad.jsonl"
    with Unfinished(tmp_path / "one.jsonl", errors, source, sha256(sealed), print) as begun:
        begun.bad({"row": 1})
        with pytest.raises(InputError, match=r"bad\.jsonl: another process is writing it"):
            predict(source, tmp_path / "two.jsonl", errors)
    errors.write_text("of somebody else\n")
    with pytest.raises(InputError, match=r"bad\.jsonl exists already"):
        predict(source, tmp_path / "one.jsonl", errors)
    assert len(predict(source, tmp_path / "one.jsonl", tmp_path / "other.jsonl")) == 4
    assert lines(tmp_path / "other.jsonl") == [{"row": 1}]
    names = ["bad.jsonl", "in.jsonl", "one.jsonl", "other.jsonl"]
    assert [path.name for path in sorted(tmp_path.iterdir())] == names
    assert errors.read_text() == "of somebody else\n"


def test_a_file_of_bad_rows_that_came_meanwhile_is_left(
    predict: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between a kill and the call that goes on."""
    source = write_rows(tmp_path / "in.jsonl", 5)
    source.write_text("not JSON\n" + source.read_text())
    _kill_at_the_end(predict, source, monkeypatch)
    (tmp_path / "bad.jsonl").write_text("of somebody else\n")
    with pytest.raises(InputError, match=r"bad\.jsonl exists already"):
        predict(source, tmp_path / "out.jsonl", tmp_path / "bad.jsonl")
    assert (tmp_path / "bad.jsonl").read_text() == "of somebody else\n"


@pytest.mark.parametrize("name", ["in.jsonl/bad.jsonl", f"{'b' * 250}.jsonl", "/proc/bad.jsonl"])
def test_bad_rows_that_could_not_be_told_are_refused_before_any_is_read(
    predict: Predict, tmp_path: Path, name: str
) -> None:
    source = write_rows(tmp_path / "in.jsonl", 5)
    with pytest.raises(InputError, match=r"cannot be made \(.*\); name another place"):
        predict(source, tmp_path / "out.jsonl", tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]
    assert not predict.seen

"""The installed command on real reviews: what each stage prints, and exactly which files it leaves."""

import json
import os
from pathlib import Path

import pytest

from bertline.artifacts import tables
from tests.e2e.command import Line, bertline


def listing(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def test_the_files_of_a_run(line: Line) -> None:
    best = (
        "best/config.json",
        "best/model.safetensors",
        "best/special_tokens_map.json",
        "best/tokenizer.json",
        "best/tokenizer_config.json",
        "best/vocab.txt",
    )
    checkpoint = (
        *best,
        "checkpoint.json",
        "deepspeed/mp_rank_00_model_states.pt",
        "deepspeed/zero_pp_rank_0_mp_rank_00_optim_states.pt",
        "deepspeed/zero_pp_rank_1_mp_rank_00_optim_states.pt",
        "zero_to_fp32.py",
        "zero_to_torch.py",
    )
    assert listing(line.folder / "runs/reviews") == [
        *best,
        *(f"checkpoints/step-12/{name}" for name in checkpoint),
        *(f"checkpoints/step-6/{name}" for name in checkpoint),
        "metrics.jsonl",
        "recipe.yaml",
        "run.json",
        "splits/calibration.jsonl",
        "splits/test.jsonl",
        "splits/validation.jsonl",
    ]


def test_the_files_of_a_bundle(line: Line) -> None:
    assert listing(line.folder / "bundles/reviews") == [
        "README.md",
        "bertline.json",
        "config.json",
        "onnx/model.onnx",
        "report.html",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    ]


def test_nothing_else_is_left_behind(line: Line) -> None:
    assert sorted(path.name for path in line.folder.iterdir()) == ["bench.html", "bundles", "reviews.yaml", "runs"]
    assert sorted(path.name for path in (line.folder / "runs").iterdir()) == [".bertline-cache", "reviews"]
    assert [path.name for path in (line.folder / "bundles").iterdir()] == ["reviews"]


def test_what_training_prints(line: Line) -> None:
    assert set(line.train) == {
        "run", "task", "metric", "best", "validation", "test", "ranks", "steps", "seconds", "tokens_per_second",
        "padding_share",
    }  # fmt: skip
    assert line.train["ranks"] == 2
    assert line.train["steps"] == 12
    assert line.train["best"]["value"] == line.train["validation"]["accuracy"]
    assert line.train["test"]["accuracy"] > 0.55  # 96 reviews teach little, but not nothing


def test_the_held_out_examples_are_written_out(line: Line) -> None:
    for name, count in (("validation", 100), ("test", 60)):
        rows = [row for _, row in tables.rows(line.folder / f"runs/reviews/splits/{name}.jsonl")]
        assert len(rows) == count
        assert sum(row["label"] == "positive" for row in rows) == count // 2  # stratified


def test_what_export_prints(line: Line) -> None:
    assert {"bundle", "chosen", "metric", "baseline", "drop", "fidelity", "candidates"} <= set(line.export)
    # best/ holds the best checkpoint, which the last one need not be
    assert line.export["baseline"] == pytest.approx(line.train["validation"]["accuracy"], abs=1e-6)
    assert line.export["fidelity"]["texts"] >= 256
    assert line.export["fidelity"]["max_abs_logit_diff"] <= 1e-3
    assert line.export["drop"] <= 0.1
    (chosen,) = [candidate for candidate in line.export["candidates"] if candidate["chosen"]]
    assert chosen["name"] == line.export["chosen"]
    assert chosen["size_bytes"] < 30e6 < max(candidate["size_bytes"] for candidate in line.export["candidates"])


def test_what_bench_prints(line: Line) -> None:
    assert {"machine", "systems", "speedup"} <= set(line.bench)
    assert [system["name"] for system in line.bench["systems"]] == ["pytorch", "onnxruntime-fp32", "bundle"]
    pytorch, fp32, bundle = line.bench["systems"]
    assert pytorch["accuracy"] == fp32["accuracy"] == line.train["test"]["accuracy"]
    assert pytorch["agreement"] == fp32["agreement"] == 1.0
    assert bundle["agreement"] > 0.9
    assert [(point["batch"], point["length"]) for point in bundle["grid"]] == [(1, 16)]  # more would be cut
    assert (line.folder / "bench.html").read_text().startswith("<!doctype html>")


def test_predict_answers_in_the_order_asked(line: Line) -> None:
    done = bertline("predict", "bundles/reviews", "loved it", "hated it", "word " * 60, "--json", folder=line.folder)
    answers = [json.loads(row) for row in done.stdout.splitlines()]
    assert [set(answer) for answer in answers] == [{"label", "score", "scores"}] * 2 + [
        {"label", "score", "scores", "truncated"}
    ]
    assert all(answer["score"] == max(answer["scores"].values()) for answer in answers)


def test_answers_to_texts_are_a_file_of_the_kind_that_is_named(line: Line, tmp_path: Path) -> None:
    texts = ("loved it", "hated it")
    path = tmp_path / "of today" / "answers.parquet"
    bertline("predict", "bundles/reviews", *texts, "--out", path, folder=line.folder)
    rows = [row for _, row in tables.rows(path)]
    assert [set(row) for row in rows] == [{"label", "score", "scores"}] * 2
    assert list(path.parent.iterdir()) == [path]


def test_bytes_that_are_no_text_are_refused_by_their_place(line: Line) -> None:
    done = bertline("predict", "bundles/reviews", "loved it", os.fsdecode(b"caf\xe9"), folder=line.folder, expect=2)
    assert done.stderr.rstrip().endswith("text 2 holds a lone surrogate (U+DCE9, character 3), which is no text")


def test_predict_answers_a_file(line: Line, tmp_path: Path) -> None:
    split = line.folder / "runs/reviews/splits/test.jsonl"
    bertline("predict", "bundles/reviews", "--in", split, "--out", tmp_path / "answers.jsonl", folder=line.folder)
    labels = [row["label"] for _, row in tables.rows(tmp_path / "answers.jsonl")]
    gold = [row["label"] for _, row in tables.rows(split)]
    accuracy = sum(one == other for one, other in zip(labels, gold, strict=True)) / len(gold)
    assert accuracy == pytest.approx(line.bench["systems"][2]["accuracy"], abs=0.02)
    bertline(
        "predict", "bundles/reviews", "--in", split, "--out", tmp_path / "answers.jsonl", folder=line.folder, expect=2
    )


def test_inspect_tells_what_a_folder_is(line: Line) -> None:
    run = json.loads(bertline("inspect", "runs/reviews", "--json", folder=line.folder).stdout)
    bundle = json.loads(bertline("inspect", "bundles/reviews", "--json", folder=line.folder).stdout)
    assert (run["kind"], bundle["kind"]) == ("run", "bundle")
    assert run["test"] == line.train["test"]
    assert bundle["machine"] == line.bench["machine"]
    assert (line.folder / "bundles/reviews" / bundle["source"]["place"]).resolve() == (
        line.folder / "runs/reviews"
    ).resolve()


def test_a_finished_run_and_a_bundle_are_never_replaced(line: Line) -> None:
    before = (
        (line.folder / "runs/reviews/run.json").read_bytes(),
        (line.folder / "bundles/reviews/bertline.json").read_bytes(),
    )
    told = bertline("train", "reviews.yaml", "--ranks", 2, folder=line.folder, expect=2).stderr
    assert "holds a finished run" in told
    assert "exists already" in bertline("export", "runs/reviews", folder=line.folder, expect=2).stderr
    after = (
        (line.folder / "runs/reviews/run.json").read_bytes(),
        (line.folder / "bundles/reviews/bertline.json").read_bytes(),
    )
    assert after == before

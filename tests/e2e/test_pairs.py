"""Pairs of texts and three labels through the whole line, from Parquet, on a tiny encoder, signed."""

import base64
import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from playwright.sync_api import Page
from pyarrow import parquet
from tritonclient import http as triton

from bertline.artifacts import bundle
from bertline.benchmarks.serve.serving import serving
from bertline.serve import Classification, load
from bertline.serve.engine import Engine
from tests.conftest import make_model, make_texts
from tests.e2e.command import bertline, here
from tests.e2e.elsewhere import opened, scores
from tests.keys import write_keys
from tests.train.conftest import train_here

LABELS = ["entailment", "neutral", "contradiction"]
RECIPE = """
name: pairs
task: text-classification
model: tiny
data:
  train: pairs.parquet
  text: premise
  text_pair: hypothesis
  take: {validation: 60, test: 40}
tokens: {max_length: 48}
training: {epochs: 1, learning_rate: 1e-3, batch_size: 16, precision: fp32, best: macro_f1}
"""


@pytest.fixture(scope="module")
def folder(rank: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    make_model(folder / "tiny")
    chance = random.Random(0)
    texts = [row["text"] for row in make_texts(300)]
    rows = [{"premise": text, "hypothesis": chance.choice(texts), "label": chance.choice(LABELS)} for text in texts]
    parquet.write_table(pa.Table.from_pylist(rows), folder / "pairs.parquet")
    (folder / "pairs.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train_here(Path("pairs.yaml"), Path("runs/pairs"))
    write_keys(folder, "mine")
    here("export", "runs/pairs", "--max-drop", 1, "--quick", "--sign", "mine.pem", folder=folder)
    return folder


def test_the_manifest_says_that_it_reads_pairs(folder: Path) -> None:
    manifest = bundle.read(folder / "bundles/pairs")
    assert manifest.inputs == ["text", "text_pair"]
    assert manifest.labels == sorted(LABELS)
    assert manifest.metric == "macro_f1"
    assert all(golden.text_pair for golden in manifest.golden)


def test_the_bundle_is_signed_under_its_name(folder: Path) -> None:
    done = bertline("inspect", "bundles/pairs", "--trust", "mine.pub", "--json", folder=folder)
    assert done.stderr == "bundles/pairs: signed by the owner of mine.pub\n"
    signature = json.loads((folder / "bundles/pairs/model.sig").read_bytes())
    statement = json.loads(base64.b64decode(signature["dsseEnvelope"]["payload"]))
    listed = {entry.path for entry in bundle.read(folder / "bundles/pairs").files}
    assert {one["name"] for one in statement["predicate"]["resources"]} == {bundle.MANIFEST, *listed}
    assert statement["subject"][0]["name"] == "pairs"


def test_texts_are_answered_two_by_two(folder: Path) -> None:
    texts = ("a film", "a movie", "good", "bad")
    done = bertline("predict", "bundles/pairs", *texts, "--trust", "mine.pub", "--json", folder=folder)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [list(answer["scores"]) for answer in answers] == [sorted(LABELS)] * 2
    assert "an odd number" in bertline("predict", "bundles/pairs", "alone", folder=folder, expect=2).stderr


def test_a_split_with_pairs_is_answered_and_measured(folder: Path) -> None:
    split = folder / "runs/pairs/splits/test.jsonl"
    assert set(json.loads(split.read_text().splitlines()[0])) == {"text", "text_pair", "label"}
    lines = bertline("predict", "bundles/pairs", "--in", split, folder=folder).stdout.splitlines()
    assert len(lines) == 40


def test_pairs_are_answered_alike_by_transformers(folder: Path) -> None:
    (expected,) = Engine.load(folder / "bundles/pairs").predict([("a film", "a movie")])
    ask = opened(folder / "bundles/pairs")
    found = scores(ask({"text": "a film", "text_pair": "a movie"}, top_k=None))
    assert found == pytest.approx(expected["scores"], abs=1e-4)


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with serving(folder / "bundles/pairs") as server:
        yield server.url


def test_pairs_are_answered_alike_to_triton(folder: Path, url: str) -> None:
    pairs = [("a film", "a movie"), ("good", "bad")]
    given = []
    for name, texts in zip(("text", "text_pair"), zip(*pairs, strict=True), strict=True):
        given.append(triton.InferInput(name, [len(pairs)], "BYTES"))
        given[-1].set_data_from_numpy(np.array(texts, object))
    with triton.InferenceServerClient(url.removeprefix("http://")) as client:
        found = client.infer("pairs", given)
    with load(folder / "bundles/pairs") as model:
        answers = model.predict(pairs)
    assert all(isinstance(answer, Classification) for answer in answers)
    assert found.as_numpy("label").tolist() == [answer.label.encode() for answer in answers]  # type: ignore[union-attr]
    assert found.as_numpy("score") == pytest.approx([answer.score for answer in answers], abs=1e-4)  # type: ignore[union-attr]


def test_pairs_are_asked_in_a_browser(page: Page, url: str) -> None:
    page.goto(url)
    page.get_by_label("Second text").fill("a movie")
    page.get_by_label("Text", exact=True).fill("a film")
    page.keyboard.press("Control+Enter")
    scores = page.locator("#answer:not([aria-busy]) .scores")
    scores.wait_for()
    body = {"inputs": {"text": "a film", "text_pair": "a movie"}}
    [ranked] = page.request.post(f"{url}/models/pairs", data=body).json()
    assert scores.locator(".label").all_text_contents() == [one["label"] for one in ranked]
    assert scores.locator(".number").all_text_contents() == [f"{100 * one['score']:.1f} %" for one in ranked]

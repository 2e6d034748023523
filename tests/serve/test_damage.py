"""Whatever is changed in a bundle, it is refused by name, and `inspect` says the same."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from onnx import ModelProto, TensorProto, helper, numpy_helper

from bertline.artifacts import bundle, files, graph, protobuf, signature
from bertline.artifacts.bundle import MANIFEST, MODEL, SIGNATURE
from bertline.artifacts.errors import DamagedError
from bertline.launch import inspect
from bertline.launch.command import main
from bertline.serve.engine import Engine
from bertline.serve.runtimes import OnnxRuntime
from tests.artifacts.graphs import HIDE, elsewhere
from tests.e2e.command import bertline
from tests.keys import exchange_once_verified, write_keys

FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", MODEL)


def refused(folder: Path) -> str:
    """What loading says of a bundle, which is what `inspect` says too."""
    with pytest.raises(DamagedError) as loading:
        Engine.load(folder)
    with pytest.raises(DamagedError) as inspecting:
        inspect.facts(folder)
    assert str(inspecting.value) == str(loading.value)
    return str(loading.value)


def manifest(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    return read


def reseal(folder: Path, **changes: object) -> None:
    """Write the manifest anew, sizes and hashes as the files now are: what one does who wants not to be found out."""
    listed = [entry.model_dump() for entry in files.listing(folder) if entry.path not in (MANIFEST, SIGNATURE)]
    files.write_json(folder / MANIFEST, manifest(folder) | {"files": listed} | changes)


def edit(folder: Path, change: Callable[[ModelProto], object]) -> None:
    model = onnx.load(folder / MODEL)
    change(model)
    onnx.save(model, folder / MODEL)
    reseal(folder)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def link(path: Path) -> None:
    moved = path.rename(path.parents[2] / path.name)
    path.symlink_to(moved)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (flip, "its sha256 is not the one recorded"),
        (truncate, "bytes where"),
        (Path.unlink, "missing"),
        (link, "a link or special file"),
    ],
)
def test_every_change_of_a_file_is_refused(
    tiny_bundle: Path, name: str, change: Callable[[Path], object], told: str
) -> None:
    change(tiny_bundle / name)
    said = refused(tiny_bundle)
    assert said.startswith(f"{tiny_bundle / name}: ")
    assert told in said


def link_to_the_same(folder: Path) -> None:
    (folder / "onnx").rename(folder.parent / "elsewhere")
    (folder / "onnx").symlink_to(folder.parent / "elsewhere")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda folder: (folder / "model.safetensors").write_text(""), "model.safetensors: not in the list"),
        (lambda folder: (folder / "onnx/.hidden").write_text(""), "onnx/.hidden: not in the list"),
        (lambda folder: (folder / "empty").mkdir(), "empty: not in the list"),
        (lambda folder: (folder / "onnx/empty/empty").mkdir(parents=True), "onnx/empty: not in the list"),
        (lambda folder: os.mkfifo(folder / "pipe"), "pipe: a link or special file"),
        (lambda folder: (folder / "dangling").symlink_to("nowhere"), "dangling: a link"),
        (lambda folder: link(folder / MANIFEST), "bertline.json: a link"),
        (link_to_the_same, "onnx: a link"),
    ],
)
def test_whatever_does_not_belong_there_is_refused(
    tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory, change: Callable[[Path], object], named: str
) -> None:
    change(tiny_bundle)
    assert refused(tiny_bundle).startswith(f"{tiny_bundle / named.partition(':')[0]}:{named.partition(':')[2]}")


def test_the_set_of_files_is_checked_before_sizes_and_those_before_hashes(tiny_bundle: Path) -> None:
    flip(tiny_bundle / "config.json")
    truncate(tiny_bundle / "tokenizer.json")
    (tiny_bundle / "zzz").write_text("")
    files.write_json(tiny_bundle / MANIFEST, manifest(tiny_bundle) | {"schema_version": 2})
    for told in ("zzz: not in the list", "tokenizer.json: 1", "config.json: its sha256", "schema_version: Input"):
        assert told.partition(" ")[0] in (said := refused(tiny_bundle)), said
        mend = {"zzz": Path.unlink, "tokenizer.json": lambda path: path.write_bytes(path.read_bytes() + b"}")}
        name = told.partition(":")[0]
        if name in mend:
            mend[name](tiny_bundle / name)
        elif name == "config.json":
            flip(tiny_bundle / name)


def test_embeddings_with_fewer_rows_than_the_vocabulary_are_refused(tiny_bundle: Path) -> None:
    def cut(model: ModelProto) -> None:
        (words,) = [one for one in model.graph.initializer if one.name.endswith("word_embeddings.weight")]
        words.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(words)[:-1], words.name))

    largest = Engine.load(tiny_bundle).tokenizer.largest_id()
    edit(tiny_bundle, cut)
    said = refused(tiny_bundle)
    assert said == (
        f"{tiny_bundle}/tokenizer.json: its largest token id is {largest}, but the model has embeddings for {largest} "
        "ids"
    )


@pytest.mark.parametrize("place", ["below/weights.data", "*/_ORT_MEM_ADDR_/*"])
def test_a_tensor_in_a_folder_below_is_refused_even_where_that_is_listed(tiny_bundle: Path, place: str) -> None:
    """ONNX Runtime and OpenVINO take the second for an address in memory."""
    path = tiny_bundle / "onnx" / place
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(4))
    edit(tiny_bundle, lambda model: HIDE["initializer"](model, elsewhere(place)))
    assert f"{MODEL}: its tensor 'elsewhere' is kept in {place!r}" in refused(tiny_bundle)


@pytest.mark.parametrize("where", HIDE)
def test_a_tensor_outside_is_refused_wherever_it_hides(tiny_bundle: Path, where: str) -> None:
    (tiny_bundle.parent / "weights.data").write_bytes(bytes(4))
    edit(tiny_bundle, lambda model: HIDE[where](model, elsewhere("../../weights.data")))
    assert f"{MODEL}: its tensor 'elsewhere' is kept in '../../weights.data'" in refused(tiny_bundle)


def rename_input(model: ModelProto) -> None:
    for node in model.graph.node:
        node.input[:] = ["ids" if name == "input_ids" else name for name in node.input]
    next(one for one in model.graph.input if one.name == "input_ids").name = "ids"


def output_in_double(model: ModelProto) -> None:
    next(node for node in model.graph.node if "logits" in node.output).output[:] = ["single"]
    model.graph.node.append(helper.make_node("Cast", ["single"], ["logits"], to=TensorProto.DOUBLE))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE


def output_of_rank_3(model: ModelProto) -> None:
    next(node for node in model.graph.node if "logits" in node.output).output[:] = ["flat"]
    model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "first"))
    model.graph.node.append(helper.make_node("Unsqueeze", ["flat", "first"], ["logits"]))
    model.graph.output[0].type.tensor_type.shape.dim.insert(0, onnx.TensorShapeProto.Dimension(dim_value=1))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (rename_input, "it takes 'ids' (element type 7, rank 2)"),
        (output_in_double, "it gives 'logits' (element type 11, rank 2)"),
        (output_of_rank_3, "it gives 'logits' (element type 1, rank 3)"),
        (lambda model: setattr(model.graph.node[0], "op_type", "Nonesuch"), "ONNX Runtime"),
    ],
)
def test_another_graph_is_refused(tiny_bundle: Path, change: Callable[[ModelProto], object], told: str) -> None:
    edit(tiny_bundle, change)
    said = refused(tiny_bundle)
    assert said.startswith(f"{tiny_bundle / MODEL}: ")
    assert told in said


def files_with(folder: Path, **entry: object) -> dict[str, Any]:
    first, *others = manifest(folder)["files"]
    return {"files": [first | entry, *others]}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda folder: {"schema_version": 2}, "schema_version: Input should be 1"),
        (lambda folder: {"candidates": []}, "candidates: Value error, exactly one of them is chosen"),
        (lambda folder: {"comment": "mine"}, "comment: Extra inputs are not permitted"),
        (lambda folder: {"examples": "1"}, "examples: Input should be a valid integer"),
        (lambda folder: {"tokens": {"max_length": 0, "stride": 0, "long": "head"}}, "tokens.max_length"),
        (lambda folder: files_with(folder, path="../config.json"), "files.0.path: String should match"),
        (lambda folder: files_with(folder, path="/etc/passwd"), "files.0.path"),
        (lambda folder: files_with(folder, path="onnx/../config.json"), "files.0.path"),
        (lambda folder: files_with(folder, path="./config.json"), "files.0.path"),
        (lambda folder: files_with(folder, path="a\0b"), "files.0.path"),
        (lambda folder: files_with(folder, path=""), "files.0.path"),
        (lambda folder: files_with(folder, size_bytes=-1), "files.0.size_bytes"),
        (lambda folder: files_with(folder, mode=0o777), "files.0.mode: Extra inputs"),
    ],
)
def test_another_manifest_is_refused_by_its_schema(
    tiny_bundle: Path, change: Callable[[Path], dict[str, Any]], told: str
) -> None:
    changed = manifest(tiny_bundle) | change(tiny_bundle)
    files.write_json(tiny_bundle / MANIFEST, changed)
    assert refused(tiny_bundle).startswith(f"{tiny_bundle / MANIFEST}: {told}")
    assert not Draft202012Validator(bundle.schema()).is_valid(changed)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda folder: {"files": [*manifest(folder)["files"], manifest(folder)["files"][0]]}, "listed twice"),
        (lambda folder: {"files": manifest(folder)["files"][:-1]}, "not in the list"),
        (lambda folder: files_with(folder, path="x" * 5000), "not in the list"),
        (lambda folder: {"runtime": manifest(folder)["runtime"] | {"model": "../model.onnx"}}, "runtime.model"),
        (lambda folder: {"task": "token-classification"}, f"{MODEL}: it gives 'logits'"),
        (lambda folder: {"golden": []}, "no golden texts"),
        (lambda folder: {"golden": [{"text": "a", "logits": [0.0]}]}, "golden text 0: 2 logits, but 1 are"),
        (lambda folder: {"labels": ["one"]}, "golden text 0: "),
        (lambda folder: {"tokens": {"max_length": 8, "stride": 9, "long": "windows"}}, "tokenizer.json: "),
    ],
)
def test_another_manifest_is_refused_by_what_it_says(
    tiny_bundle: Path, change: Callable[[Path], dict[str, Any]], told: str
) -> None:
    files.write_json(tiny_bundle / MANIFEST, manifest(tiny_bundle) | change(tiny_bundle))
    assert told in refused(tiny_bundle)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"name": "tiny"', '"name": "tiny", "na\\u006de": "other"', "key 'name' occurs twice"),
        ('"drop": 0.0', '"drop": NaN', "NaN is no number"),
        ('"golden": [', '"golden": [' + "[" * 100_000, "not readable as JSON"),
        ("}\n", "", "not readable as JSON"),
        ('"tiny"', '"\\ud800"', "as a whole: Invalid JSON"),
        ('"tiny"', '"\x01"', "not readable as JSON"),
        ("0.0", "1" * 10_000, "not readable as JSON"),
    ],
    ids=["twice", "NaN", "deep", "cut off", "surrogate", "control", "long number"],
)
def test_a_manifest_that_readers_might_read_otherwise_is_refused(
    tiny_bundle: Path, old: str, new: str, told: str
) -> None:
    text = (tiny_bundle / MANIFEST).read_text()
    head, found, tail = text.rpartition(old) if old == "}\n" else text.partition(old)
    assert found
    (tiny_bundle / MANIFEST).write_text(head + new + tail)
    said = refused(tiny_bundle)
    assert said.startswith(f"{tiny_bundle / MANIFEST}: ")
    assert told in said


def test_broken_tokenizers_are_refused_by_name(tiny_bundle: Path) -> None:
    for name, content in (("tokenizer_config.json", "[]"), ("tokenizer_config.json", "{"), ("tokenizer.json", "{}")):
        (tiny_bundle / name).write_text(content)
        reseal(tiny_bundle)
        assert refused(tiny_bundle).startswith(f"{tiny_bundle / 'tokenizer.json'}: ")


def test_the_command_ends_with_1(tiny_bundle: Path) -> None:
    flip(tiny_bundle / "config.json")
    for command in (["inspect"], ["predict", "--json"]):
        done = bertline(*command, tiny_bundle, *(["a film"] if len(command) > 1 else []), folder=tiny_bundle, expect=1)
        assert done.stderr == f"{tiny_bundle}/config.json: its sha256 is not the one recorded\n"
        assert done.stdout == ""


def test_an_engine_is_made_of_the_bytes_that_were_hashed(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = bundle.load

    def then_replace(folder: Path) -> bundle.Loaded:
        loaded = load(folder)
        for name in FILES:
            (folder / name).write_bytes(b"another file")
        return loaded

    monkeypatch.setattr(bundle, "load", then_replace)
    assert len(Engine.load(tiny_bundle).predict([("a good film", None)])) == 1


def test_listed_files_beside_the_model_may_hold_its_tensors(tiny_bundle: Path) -> None:
    """A model of more than 2 GB is kept so."""
    model = onnx.load(tiny_bundle / MODEL)
    onnx.save(model, tiny_bundle / MODEL, save_as_external_data=True, location="weights.data", size_threshold=0)
    assert "onnx/weights.data: not in the list" in refused(tiny_bundle)
    reseal(tiny_bundle)
    assert len(Engine.load(tiny_bundle).predict([("a good film", None)])) == 1
    flip(tiny_bundle / "onnx/weights.data")
    assert "onnx/weights.data: its sha256" in refused(tiny_bundle)


def test_nothing_is_unpickled(tiny_bundle: Path) -> None:
    """Python itself tells when a pickle names a class or a function."""
    script = f"""
import sys
from pathlib import Path
import onnxruntime  # modules are unmarshalled as they are imported
from bertline.serve.engine import Engine
found = []
sys.addaudithook(lambda event, _: found.append(event) if event.startswith(("pickle.", "marshal.")) else None)
Engine.load(Path({str(tiny_bundle)!r})).predict([("a good film", None)])
assert not found, found
import pickle
pickle.loads(pickle.dumps(Path))
assert "pickle.find_class" in found
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


@pytest.fixture(scope="session")
def bones(sealed: Path) -> bytes:
    """The graph without its weights, so that damage hits what is read."""
    model = onnx.load(sealed / MODEL)
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")
    content: bytes = model.SerializeToString()
    graph.check(content, "text-classification", ())
    return content


DAMAGE = st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(1, 255)), max_size=4)
CUT = st.just(1 << 20) | st.integers(0, 1 << 16)


def damaged(content: bytes, damage: list[tuple[int, int]], cut: int) -> bytes:
    changed = bytearray(content)
    for place, bits in damage:
        changed[place % len(content)] ^= bits
    return bytes(changed[:cut])


@settings(max_examples=200, deadline=None)
@given(damage=DAMAGE, cut=CUT)
def test_a_graph_with_random_damage_is_a_graph_or_refused(
    bones: bytes, damage: list[tuple[int, int]], cut: int
) -> None:
    content = damaged(bones, damage, cut)
    try:
        graph.check(content, "text-classification", ())
    except ValueError:
        return
    try:
        model = onnx.load_from_string(content)
    except DecodeError:
        return  # damage within a message that is left as bytes, which no runtime gets past
    read = protobuf.read(content).one("graph")  # what others read is what was checked
    assert [node.text("op_type") for node in read.all("node")] == [node.op_type for node in model.graph.node]
    assert [one.text("name") for one in read.all("initializer")] == [one.name for one in model.graph.initializer]


@settings(max_examples=200, deadline=None)
@given(damage=DAMAGE, cut=CUT)
def test_a_manifest_with_random_damage_is_a_manifest_or_refused(
    sealed: Path, tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[int, int]], cut: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged" / MANIFEST
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(damaged((sealed / MANIFEST).read_bytes(), damage, cut))
    with suppress(DamagedError):
        bundle.read(path.parent)


def test_the_model_is_not_held_twice(tiny_bundle: Path) -> None:
    assert OnnxRuntime((tiny_bundle / MODEL).read_bytes())._session._model_bytes is None


@pytest.mark.parametrize("command", [("predict", "a film"), ("inspect",), ("bench",)])
def test_a_folder_that_takes_the_place_of_one_whose_signature_was_verified_is_refused(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    private, public = write_keys(tmp_path, "mine")
    signature.signer(private)(tiny_bundle)
    other = Path(shutil.copytree(tiny_bundle, tmp_path / "other"))
    reseal(other, name="of somebody else")
    exchange_once_verified(monkeypatch, other)
    name, *texts = command
    result = CliRunner().invoke(main, [name, str(tiny_bundle), *texts, "--trust", str(public)])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "it changed after its signature was verified" in result.stderr

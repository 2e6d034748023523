"""DeepSpeed checkpoints of one or two ranks become model folders, bit for bit, without running code."""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import deepspeed
import pytest
import torch
from click.testing import CliRunner
from deepspeed.accelerator import get_accelerator
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils import safe_get_full_fp32_param
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertForMaskedLM

from bertline.artifacts import bundle as bundles
from bertline.artifacts import encoder, files
from bertline.artifacts.errors import BertlineError, DamagedError, InputError
from bertline.export.export import export
from bertline.export.gathering import checkpoint, shards
from bertline.export.gathering.gather import gather
from bertline.export.options import ExportOptions
from bertline.launch import bench
from bertline.launch.command import main
from tests.conftest import make_model
from tests.export.conftest import measure_briefly, write_texts
from tests.export.gathering import gather_ranks
from tests.train import forked
from tests.train.conftest import write_recipe

RUNS = ("one-0", "one-1", "one-2", "one-3", "two-1", "two-2", "two-3")
SPLIT = "two-3"
HALF: dict[str, dict[str, Any]] = {
    "bf16": {"bf16": {"enabled": True}},
    "fp16": {"fp16": {"enabled": True, "initial_scale_power": 4}},
    "bf16-fp32": {"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}},
}
"""Half precision, as DeepSpeed's configuration says it: the last has an optimizer of its own, at ZeRO 1 alone."""
pytestmark = pytest.mark.usefixtures("rank")


@pytest.fixture(scope="module")
def folder(rank: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run for each name: its ranks and its ZeRO stage."""
    folder = tmp_path_factory.mktemp("gather")
    recipe = write_recipe(make_model(folder / "model"), folder)
    for stage in range(4):
        gather_ranks.train(recipe, folder / f"one-{stage}", stage)
    forked.two(folder / "logs", gather_ranks.main, recipe, folder)
    return folder


@pytest.fixture
def output(folder: Path, tmp_path: Path) -> Path:
    """A copy of what DeepSpeed alone leaves on two ranks at ZeRO 3: two checkpoints, `latest`, no model beside."""
    shutil.copytree(folder / SPLIT / "output", tmp_path / "output")
    return tmp_path / "output"


@pytest.fixture
def model(folder: Path) -> str:
    """The model that was trained."""
    return str(folder / SPLIT / "run/best")


def same(made: Path, kept: Path) -> bool:
    """Whether a folder's weights are those that were kept, to the bit."""
    found, wanted = load_file(made / "model.safetensors"), load_file(kept)
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


def change(path: Path, **keys: Any) -> None:
    """Write a checkpoint's file again with something added."""
    torch.save({**torch.load(path, weights_only=False), **keys}, path)


@pytest.mark.parametrize("name", RUNS)
def test_a_runs_checkpoint_becomes_its_model(folder: Path, tmp_path: Path, name: str) -> None:
    for step in (4, 6):
        made = tmp_path / f"step-{step}"
        told = gather(folder / name / f"run/checkpoints/step-{step}", made)
        assert same(made, folder / name / f"step-{step}.safetensors")
    ranks, stage = name.split("-")
    assert (told["ranks"], told["zero_stage"]) == ({"one": 1, "two": 2}[ranks], int(stage))
    assert told["weights_sha256"] == encoder.weights_sha256(made)
    assert not same(tmp_path / "step-4", folder / name / "step-6.safetensors")


def test_a_runs_checkpoint_brings_its_model_along(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / SPLIT / "run/checkpoints/step-6", tmp_path / "elsewhere")
    gather(tmp_path / "elsewhere", tmp_path / "made")
    assert same(tmp_path / "made", folder / SPLIT / "step-6.safetensors")


@pytest.mark.parametrize(("inside", "place"), [("", "step-6"), ("step-6", "."), ("step-6/deepspeed", ".")])
def test_a_checkpoint_is_named_from_where_one_is(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: str, place: str
) -> None:
    shutil.copytree(folder / "one-1/run", tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run/checkpoints" / inside)
    gather(Path(place), tmp_path / "made")
    assert same(tmp_path / "made", folder / "one-1/step-6.safetensors")
    (tmp_path / "run/checkpoints/step-6/more").touch()
    with pytest.raises(DamagedError, match="more: not in the list of files"):
        gather(Path(place), tmp_path / "again")


@pytest.mark.parametrize("name", RUNS)
def test_the_latest_of_what_deepspeed_leaves_becomes_the_model(folder: Path, tmp_path: Path, name: str) -> None:
    told = gather(folder / name / "output", tmp_path / "made", str(folder / name / "run/best"))
    assert told["checkpoint"] == str(folder / name / "output/global_step6")
    assert same(tmp_path / "made", folder / name / "step-6.safetensors")


def test_the_folder_is_one_that_transformers_opens(folder: Path, tmp_path: Path) -> None:
    gather(folder / SPLIT / "run/checkpoints/step-6/deepspeed", tmp_path / "made")
    assert [entry.path for entry in files.listing(tmp_path / "made")] == [
        "config.json", "model.safetensors", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "made")
    assert loaded.config.id2label == {0: "negative", 1: "positive"}
    assert loaded.dtype == torch.float32
    assert len(AutoTokenizer.from_pretrained(tmp_path / "made")("a film").input_ids) == 4


@pytest.mark.parametrize(
    ("stage", "precision"),
    [*((stage, precision) for stage in range(4) for precision in ("bf16", "fp16")), (1, "bf16-fp32")],
)
def test_tied_weights_in_half_precision_come_from_their_masters(
    tmp_path: Path, stage: int, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a CPU can, but DeepSpeed says no where it is slow
    monkeypatch.setattr(get_accelerator(), "is_fp16_supported", lambda: True)
    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 63}
    tied = BertForMaskedLM(BertConfig(vocab_size=101, max_position_embeddings=16, **sizes))
    tied.save_pretrained(tmp_path / "model")
    tied.bert.embeddings.position_embeddings.requires_grad_(False)
    zero = {"stage": stage, "parameter_alignment": True}
    config = {"train_batch_size": 2, "zero_optimization": zero, **HALF[precision]}
    optimizer = torch.optim.AdamW([one for one in tied.parameters() if one.requires_grad], lr=1e-3)
    config |= {"zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False}
    engine, *_ = deepspeed.initialize(model=tied, optimizer=optimizer, config=config)
    ids = torch.arange(16).reshape(2, 8)
    engine.backward(engine(input_ids=ids, labels=ids).loss)
    engine.step()
    engine.save_checkpoint(str(tmp_path / "output"))
    with deepspeed.zero.GatheredParameters(list(engine.module.parameters())):
        computed = {name: tensor.detach().clone() for name, tensor in engine.module.state_dict().items()}

    told = gather(tmp_path / "output", tmp_path / "made", str(tmp_path / "model"))
    found = BertForMaskedLM.from_pretrained(tmp_path / "made").state_dict()
    assert told["zero_stage"] == stage
    assert found.keys() == computed.keys()
    for name, tensor in computed.items():
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name].to(tensor.dtype), tensor), name
    if stage > 0:
        trained = {name: one for name, one in engine.module.named_parameters() if one.requires_grad}
        for name, one in trained.items():
            assert torch.equal(found[name], safe_get_full_fp32_param(one)), name
            assert not torch.equal(found[name], computed[name].float())


def test_trainers_folder_brings_the_model(output: Path, model: str, folder: Path, tmp_path: Path) -> None:
    nested = tmp_path / "checkpoint-6"
    shutil.copytree(output / "global_step6", nested / "global_step6")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(Path(model) / name, nested / name)
    gather(nested, tmp_path / "made")
    assert same(tmp_path / "made", folder / SPLIT / "step-6.safetensors")
    assert (tmp_path / "made/tokenizer.json").is_file()


@pytest.mark.parametrize("latest", [None, "", "global_step4\n", "global_step9", "../output/global_step6"])
def test_which_checkpoint_is_meant_is_not_guessed(output: Path, latest: str | None) -> None:
    (output / "latest").unlink() if latest is None else (output / "latest").write_text(latest)
    if latest == "global_step4\n":
        assert checkpoint.choose(output) == output / "global_step4"
    else:
        with pytest.raises(InputError, match=r"name one of \S+global_step4, \S+global_step6"):
            checkpoint.choose(output)
    if not latest:
        shutil.rmtree(output / "global_step4")
        assert checkpoint.choose(output) == output / "global_step6"


def test_a_checkpoint_that_is_being_written_is_not_found(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "one-1/run/checkpoints", tmp_path / "checkpoints")
    (tmp_path / "checkpoints/step-6").rename(tmp_path / "checkpoints/.step-6")
    assert checkpoint.choose(tmp_path) == tmp_path / "checkpoints/step-4/deepspeed"


class Harmful:
    """Makes a folder when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("kind", ["model", "optim"])
def test_a_pickle_that_runs_code_is_refused_and_not_run(output: Path, model: str, tmp_path: Path, kind: str) -> None:
    path = next((output / "global_step6").glob(f"zero_pp_rank_1_*_{kind}_states.pt"))
    change(path, args=Harmful(tmp_path / "harm"))
    with pytest.raises(InputError, match=r"needs \w+\.mkdir, .+ --trust-checkpoint$") as caught:
        gather(output, tmp_path / "made", model)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "harm").exists()
    assert not (tmp_path / "made").exists()
    gather(output, tmp_path / "made", model, trust=True)
    assert (tmp_path / "harm").exists(), "the test's pickle does run code where it may"


def test_a_pickle_that_hides_what_it_asks_for_is_refused(output: Path, model: str, tmp_path: Path) -> None:
    path = output / "global_step6/zero_pp_rank_0_mp_rank_00_model_states.pt"
    torch.save({**torch.load(path), "args": Harmful(tmp_path / "harm")}, path, pickle_protocol=4)
    with pytest.raises(InputError, match="needs more than plain values"):
        gather(output, tmp_path / "made", model)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_trusted_checkpoint_may_hold_anything(
    output: Path, model: str, folder: Path, tmp_path: Path, zipped: bool
) -> None:
    path = output / "global_step6/zero_pp_rank_0_mp_rank_00_model_states.pt"
    states = {**torch.load(path), "args": argparse.Namespace(seed=1)}  # as Megatron adds
    torch.save(states, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"needs argparse\.Namespace"):
        gather(output, tmp_path / "made", model)
    gather(output, tmp_path / "made", model, trust=True)
    assert same(tmp_path / "made", folder / SPLIT / "step-6.safetensors")


@pytest.mark.parametrize(
    "name", ["zero_pp_rank_1_mp_rank_00_optim_states.pt", "zero_pp_rank_0_mp_rank_00_model_states.pt"]
)
@pytest.mark.parametrize("trust", [True, False])
def test_damage_is_told_in_a_line(output: Path, model: str, tmp_path: Path, name: str, trust: bool) -> None:
    path = output / "global_step6" / name
    whole = path.read_bytes()
    middle = (
        whole.index(torch.load(path, weights_only=False)["ds_version"].encode())
        if "model" in name
        else 9 * len(whole) // 10
    )
    changed = bytearray(whole)
    changed[middle] ^= 1
    for content, words in ((whole[: len(whole) // 2], "truncated"), (b"", "truncated"), (bytes(changed), "checksum")):
        path.write_bytes(content)
        with pytest.raises(DamagedError, match=words) as caught:
            gather(output, tmp_path / "made", model, trust)
        assert str(caught.value).startswith(f"{path}: ")
        assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "made").exists()


def test_a_runs_checkpoint_is_held_against_its_index(folder: Path, model: str, tmp_path: Path) -> None:
    shutil.copytree(folder / "one-2/run/checkpoints/step-6", tmp_path / "step-6")
    change(tmp_path / "step-6/deepspeed/mp_rank_00_model_states.pt", more=1)
    with pytest.raises(DamagedError, match=r"mp_rank_00_model_states\.pt: .+ recorded"):
        gather(tmp_path / "step-6", tmp_path / "made", model)
    index = tmp_path / "step-6/checkpoint.json"
    index.write_text(index.read_text().replace('"step": 6', '"step": 5'))
    with pytest.raises(DamagedError, match=r"checkpoint\.json: not as it was written"):
        gather(tmp_path / "step-6", tmp_path / "made", model)


@pytest.mark.parametrize(
    ("name", "missing", "words"),
    [
        ("two-2", "zero_pp_rank_1_mp_rank_00_optim_states.pt", "written by 2 ranks, but has .* of 1"),
        ("two-2", "zero_pp_rank_0_mp_rank_00_optim_states.pt", r"optim_states\.pt of ranks \[1\]"),
        ("two-3", "zero_pp_rank_1_mp_rank_00_model_states.pt", "1 files of model states, 2 of optimizer states"),
        ("one-1", "zero_pp_rank_0_mp_rank_00_optim_states.pt", "which hold its weights in fp32, are missing"),
    ],
)
def test_a_missing_file_is_told(folder: Path, tmp_path: Path, model: str, name: str, missing: str, words: str) -> None:
    shutil.copytree(folder / name / "output/global_step6", tmp_path / "step")
    (tmp_path / "step" / missing).unlink()
    with pytest.raises(InputError, match=words):
        gather(tmp_path / "step", tmp_path / "made", model)


def test_another_model_is_refused_by_name_and_shape(output: Path, model: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has weights that the model lacks: bert\.embed.+ and 38 more") as caught:
        gather(output, tmp_path / "made", str(folder / "model"))
    assert "lacks weights that the model has: embeddings.word_embeddings.weight" in str(caught.value)
    three = make_model(tmp_path / "three", ("a", "b", "c"))
    with pytest.raises(InputError, match=r"classifier\.weight \(2, 32\), not \(3, 32\), classifier\.bias") as caught:
        gather(output, tmp_path / "made", str(three))
    assert len(caught.value.faults) == 2
    with pytest.raises(InputError, match="beside it; name the folder"):
        gather(output, tmp_path / "made")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("keys", [{"auto_map": {"AutoModel": "x.Y"}}, {"architectures": ["os"]}, {"architectures": []}])
def test_a_config_that_names_code_or_no_model_is_refused(
    output: Path, model: str, tmp_path: Path, keys: dict[str, Any]
) -> None:
    config = json.loads(Path(model, "config.json").read_text())
    files.write_json(tmp_path / "model/config.json", {**config, **keys})
    with pytest.raises(InputError, match=rf"config\.json: .*{next(iter(keys))}"):
        gather(output, tmp_path / "made", str(tmp_path / "model"))


def test_a_config_may_name_its_one_architecture_without_a_list(output: Path, model: str, tmp_path: Path) -> None:
    config = json.loads(Path(model, "config.json").read_text())
    (name,) = config["architectures"]
    given = Path(shutil.copytree(model, tmp_path / "model"))
    files.write_json(given / "config.json", {**config, "architectures": name})
    assert gather(output, tmp_path / "made", str(given))["parameters"] > 0


def test_pieces_of_another_kind_are_refused(output: Path, model: str, tmp_path: Path) -> None:
    step = output / "global_step6"
    shutil.copyfile(next(step.glob("*_0_*model_states.pt")), step / "zero_pp_rank_0_mp_rank_01_model_states.pt")
    with pytest.raises(InputError, match="from tensor, pipeline or expert parallelism"):
        gather(output, tmp_path / "made", model)


def test_the_command_prints_one_object_and_needs_no_deepspeed(output: Path, model: str, tmp_path: Path) -> None:
    script = "import sys; sys.modules['deepspeed'] = None; from bertline.launch.command import main; main()"
    line = [
        sys.executable,
        "-c",
        script,
        "gather",
        str(output),
        "--model",
        model,
        "-o",
        str(tmp_path / "made"),
        "--json",
    ]
    done = subprocess.run(line, capture_output=True, text=True, check=True, timeout=600)
    told = json.loads(done.stdout)
    assert list(told) == ["model", "checkpoint", "zero_stage", "ranks", "parameters", "weights_sha256"]
    assert (told["model"], told["zero_stage"], told["ranks"]) == (str(tmp_path / "made"), 3, 2)
    weights = load_file(tmp_path / "made/model.safetensors")
    assert told["parameters"] == sum(tensor.numel() for tensor in weights.values())
    assert done.stderr == ""


def test_export_takes_a_checkpoint(
    folder: Path, output: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure_briefly(monkeypatch)
    data = write_texts(tmp_path / "texts.jsonl", 60)
    said: list[str] = []
    made = tmp_path / "bundles/made"
    export(str(output), made, ExportOptions(1.0, quick=True), data=data, say=said.append, model=model)
    manifest = bundles.verify(made)
    assert manifest.options["model"] == "best", "without the folders that lead to it"
    source = manifest.source
    assert (source.kind, (made / source.place).resolve()) == ("checkpoint", output)
    gather(output, tmp_path / "model", model)
    assert source.weights_sha256 == encoder.weights_sha256(tmp_path / "model")
    assert f"{output}: gathering" in said
    with pytest.raises(InputError, match="a DeepSpeed checkpoint: convert it with bertline gather"):
        bench.bench(made, [], data, None, said.append)


def test_export_says_what_is_not_a_checkpoint_or_lacks_texts(
    output: Path, model: str, tiny_classifier: Path, tmp_path: Path
) -> None:
    texts = write_texts(tmp_path / "texts.jsonl", 20)
    for source in (str(tiny_classifier), str(Path(model).parent)):
        with pytest.raises(BertlineError, match="no DeepSpeed checkpoint; leave out --model and --trust-checkpoint"):
            export(source, tmp_path / "bundle", ExportOptions(0.1), data=texts, trust=True)
    done = CliRunner().invoke(main, ["export", str(output), "--model", model, "-o", str(tmp_path / "bundle")])
    assert done.exit_code == 2
    assert "add --data FILE" in done.stderr
    assert not (tmp_path / "bundle").exists()


class Got:
    """An object that is written as Python before 3.11.4 writes a member of an enumeration."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> Any:
        return getattr, (ZeroStageEnum, self.name)


def test_slices_of_zero_3_are_padded() -> None:
    shapes = [{"bias": (3,), "weight": (1, 5)}]
    parts = ([0, 1, 3, 4, 5], [2, -1, 6, 7, -1])  # of 3 values a rank has 2, of 5 it has 3
    optimizers = [{"fp32_flat_groups": [torch.tensor(part)]} for part in parts]
    found = {name: tensor.tolist() for name, tensor in shards._sliced({"param_shapes": shapes}, optimizers)}
    assert found == {"bias": [0, 1, 2], "weight": [[3, 4, 5, 6, 7]]}


def test_a_stage_that_an_older_python_wrote(tmp_path: Path) -> None:
    torch.save({"zero_stage": Got("gradients")}, tmp_path / "stage.pt")
    assert shards.load(tmp_path / "stage.pt", trust=False) == {"zero_stage": 2}
    torch.save({"zero_stage": Got("mro")}, tmp_path / "other.pt")
    with pytest.raises(InputError, match="needs getattr"):
        shards.load(tmp_path / "other.pt", trust=False)

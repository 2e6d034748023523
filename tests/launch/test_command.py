"""The command line is frozen: what a run needs grows in the recipe, not here."""

import builtins
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from bertline.launch import check, doctor, train
from bertline.launch.command import main
from bertline.launch.devices import Devices

FLAGS = {
    "train": ["RECIPE", "--set", "--gpus", "--ranks", "--hostfile", "--run", "--resume", "--dry-run", "--json"],
    "check": ["RECIPE", "--set", "--json"],
    "search": ["RECIPE", "--set", "--gpus", "--ranks", "--hostfile", "--output", "--engine", "--json"],
    "export": [
        "RUN|MODEL|CHECKPOINT",
        "--output",
        "--max-drop",
        "--target",
        "--portable",
        "--prefer",
        "--max-size",
        "--batch",
        "--only",
        "--metric",
        "--quick",
        "--allow-fp32",
        "--calibration",
        "--layout",
        "--data",
        "--column",
        "--trim-vocabulary",
        "--model",
        "--trust-checkpoint",
        "--sign",
        "--json",
    ],
    "shrink": ["RUN", "--max-drop", "--unlabelled", "--output", "--set", "--gpus", "--ranks", "--hostfile", "--json"],
    "push": ["BUNDLE", "ORG/NAME", "--dry-run", "--json"],
    "gather": ["CHECKPOINT", "--output", "--model", "--trust-checkpoint", "--json"],
    "bench": ["BUNDLE", "--against", "--data", "--column", "--html", "--trust", "--json"],
    "predict": ["BUNDLE", "[TEXT]...", "--in", "--column", "--out", "--errors", "--engine", "--trust", "--json"],
    "serve": ["BUNDLE...", "--host", "--port", "--threads", "--api-keys", "--cors", "--limit", "--trust"],
    "inspect": ["RUN|BUNDLE", "--trust", "--json"],
    "demo": ["--json"],
    "doctor": ["--json"],
}


def test_the_commands_and_their_flags() -> None:
    found = {}
    for name, command in main.commands.items():
        found[name] = [
            parameter.make_metavar(click.Context(command))
            if isinstance(parameter, click.Argument)
            else parameter.opts[-1]
            for parameter in command.params
        ]
    assert found == FLAGS


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from bertline.launch.command import main; main(['-h'], standalone_mode=False); print(*sys.modules)"
    )
    modules = subprocess.check_output([sys.executable, "-c", script], text=True, timeout=600).split()
    assert {"numpy", "torch", "pydantic", "rich", "yaml", "onnxruntime"}.isdisjoint(modules)
    assert "click" in modules


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_another_system_than_linux_is_told_what_to_do(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    done = CliRunner().invoke(main, ["doctor"])
    assert done.exit_code == 2
    assert done.stderr.startswith(f"bertline runs on Linux, and this is {platform}: use a container")
    assert len(done.output.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "nowhere.yaml"], "nowhere.yaml: No such file or directory; a recipe is a YAML file"),
        (["search", "nowhere.yaml"], "nowhere.yaml: No such file or directory; a recipe is a YAML file"),
        (["export", "./nowhere", "-o", "out"], "./nowhere"),
        (["export", "./nowhere", "-o", "out", "--trust-checkpoint"], "./nowhere: no DeepSpeed checkpoint"),
        (["gather", "nowhere", "-o", "out"], "nowhere: no DeepSpeed checkpoint"),
        (["bench", "nowhere"], "nowhere: no such folder"),
        (["predict", "nowhere", "text"], "nowhere: no such folder"),
        (["predict", "nowhere"], "give either TEXTs or --in FILE"),
        (["predict", "nowhere", "text", "--errors", "bad.jsonl"], "--errors is for files"),
        (["predict", "nowhere", "text", "--column", "text=body"], "--column is for files: give --in FILE with it"),
        (["predict", "nowhere", "--in", "a.csv", "--column", "body"], "--column body: expected NAME=COLUMN"),
        (
            ["export", "nowhere", "--data", "a.csv", "--column", "label=toxic", "--column", "label=insult"],
            "--column label=…: given 2 times; it names one column",
        ),
        (["predict", "nowhere", "text", "--engine", "ray"], "--engine ray is for files: give --in FILE and --out FILE"),
        (["predict", "nowhere", "--in", "a.csv", "--engine", "ray"], "--engine ray is for files"),
        (["predict", "nowhere", "--in", "a.csv", "--out", "a.txt"], "a.txt: answers are written as .jsonl, .jsonl.gz"),
        (["predict", "nowhere", "--in", "a.csv", "--out", "a.csv", "--errors", "./a.csv"], "name two files"),
        (["predict", "nowhere", "--in", "a.csv", "--out", "b.csv", "--json"], "give one or the other"),
        (
            ["export", "./nowhere", "-o", "out", "--sign", "nokey"],
            "nokey: no such file; name one with a private elliptic-curve key",
        ),
        (["inspect", "nowhere", "--trust", "nokey"], "nowhere: no such folder"),
        (["push", "nowhere", "org/name"], "nowhere: no such folder"),
        (["push", "nowhere", "name"], "name: not a repository's name; write ORG/NAME"),
        (["push", "nowhere", "org/of/name"], "org/of/name: not a repository's name"),
        (["inspect", "."], ".: neither a run (run.json) nor a bundle (bertline.json)"),
        (["shrink", "nowhere"], "nowhere: no such folder"),
        (["inspect", "nowhere"], "nowhere: no such folder"),
        (
            ["export", "./nowhere", "-o", "/dev/null/out"],
            "/dev/null/out: cannot be made (Not a directory); name another",
        ),
        (["shrink", "nowhere", "-o", "/dev/null/out"], "/dev/null/out: cannot be made (Not a directory)"),
        (["bench", "nowhere", "--html", "/dev/null/out.html"], "/dev/null/out.html: cannot be made (Not a directory)"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    @main.command("fill")
    def fill() -> None:
        raise OSError(28, "No space left on device", "model.onnx")

    try:
        result = CliRunner().invoke(main, ["fill"])
    finally:
        del main.commands["fill"]
    assert result.exit_code == 2
    assert result.stderr == "model.onnx: No space left on device; nothing was overwritten\n"


def test_a_path_that_cannot_be_is_told() -> None:
    result = CliRunner().invoke(main, ["inspect", long := "a" * 300])
    assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (2, "", 1)
    assert long in result.stderr


def test_a_defect_keeps_its_traceback() -> None:
    @main.command("break")
    def fail() -> None:
        raise ZeroDivisionError

    try:
        result = CliRunner().invoke(main, ["break"])
    finally:
        del main.commands["break"]
    assert isinstance(result.exception, ZeroDivisionError)


@pytest.mark.parametrize(
    ("before", "numbers"),
    [
        ("SIG_DFL", [signal.SIGTERM]),
        ("SIG_DFL", [signal.SIGHUP]),
        ("SIG_DFL", [signal.SIGUSR1]),  # a scheduler's, which queues again what ends so
        ("SIG_IGN", [signal.SIGHUP, signal.SIGTERM]),  # nohup's: a terminal that closes ends nothing
    ],
)
def test_the_end_by_a_signal_clears_away_what_was_half_made(before: str, numbers: list[signal.Signals]) -> None:
    script = f"""
import signal, time
from bertline.launch.command import _hear_schedulers, main
signal.signal(signal.SIGHUP, signal.{before})
@main.command()
def make():
    _hear_schedulers()
    try:
        print("at work", flush=True)
        time.sleep(60)
    finally:
        print("cleared away")
main(["make"])
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "at work\n"
        for number in numbers:
            process.send_signal(number)
        assert process.stdout.read() == "cleared away\n"
    assert process.returncode == (75 if signal.SIGUSR1 in numbers else 128 + numbers[-1])


def test_labels_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    labels = ["[/INST]", "[happy]", ":joy:"]
    tokens = dict.fromkeys(("p50", "p90", "p99", "max", "longer_share", "max_length"), 1)
    counts = {"examples": {"train": 3}, "labels": {"train": dict.fromkeys(labels, 1)}}
    shown = [{"gold": labels, "read": "[CLS] :joy:", "tokens": 3, "windows": 1, "truncated": False}]
    found = {"task": "text-classification", **counts, "tokens": tokens, "shown": shown, "warnings": []}
    check.show({**found, "provable_drop": None})
    told = capsys.readouterr().out
    assert [told.count(label) for label in labels] == [2, 2, 3]


@pytest.mark.parametrize(("code", "gpus"), [(0, ["H200, 139 GiB"]), (9, [])])
def test_a_driver_that_fails_lists_no_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, gpus: list[str]
) -> None:
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\necho 'H200, 139 GiB'\nexit {code}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert doctor._gpus() == gpus


@pytest.mark.parametrize(
    ("ones", "told"),
    [
        ("pass", "usable: torch 2.13.0, built for CUDA 13.0"),
        (
            "raise RuntimeError('The NVIDIA driver\\nis too old')",
            "NOT USABLE: torch 2.13.0, built for CUDA 13.0: The NVIDIA driver is too old",
        ),
        ("import os; os.abort()", "NOT USABLE: torch ended with exit code -6"),
    ],
)
def test_doctor_tells_whether_torch_can_use_the_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ones: str, told: str
) -> None:
    code = f"class version:\n    cuda = '13.0'\n__version__ = '2.13.0'\ndef ones(*_, device):\n    {ones}\n"
    (tmp_path / "torch.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert doctor._torch_on_gpus() == told


def test_an_op_that_cannot_tell_whether_it_can_be_built_cannot(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As those for CUDA on a machine with a GPU and no nvcc."""
    from deepspeed.ops.op_builder.all_ops import ALL_OPS
    from deepspeed.ops.op_builder.builder import MissingCUDAException

    class Op:
        name = "needs_nvcc"

        def is_compatible(self, verbose: bool) -> bool:
            raise MissingCUDAException("CUDA_HOME does not exist")

    monkeypatch.setitem(ALL_OPS, Op.name, Op())
    assert doctor._ops()[Op.name] == "no"
    assert capsys.readouterr().out == ""


def test_doctor_tells_what_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch or ONNX Runtime on a machine without a library that they need."""
    import_module = builtins.__import__

    def broken(name: str, *arguments: Any, **named: Any) -> Any:
        if name.startswith(("deepspeed.ops", "onnxruntime")):
            raise ImportError("libcudart.so.12: cannot open\nshared object file")
        return import_module(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", broken)
    told = doctor.facts()
    why = "ImportError: libcudart.so.12: cannot open shared object file"
    assert told["training"] == {"ready": False, "why": f"deepspeed cannot be imported: {why}"}
    assert told["runtimes"]["onnxruntime"] == f"NOT USABLE: {why}"
    monkeypatch.setattr(doctor, "facts", lambda: told)
    assert CliRunner().invoke(main, ["doctor"]).exit_code == 0


def test_doctor_tells_what_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DS_ACCELERATOR")  # or DeepSpeed does not look for a GPU, and warns of none
    done = subprocess.run(
        [Path(sys.executable).with_name("bertline"), "doctor", "--json"], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    told = json.loads(done.stdout)
    assert set(told) == {"machine", "bf16_on_cpu", "int8", "gpus", "training", "runtimes", "security", "versions"}
    assert told["training"]["ready"]
    assert "CPUExecutionProvider" in told["runtimes"]["onnxruntime"]["providers"]
    assert told["versions"]["transformers"] == "4.57.6"
    assert told["security"]["kernels"] == "not installed"


@pytest.mark.parametrize(
    ("package", "extra", "command"),
    [
        ("deepspeed", "train", ["train", "RECIPE", "--run", "run"]),
        ("transformers", "train", ["check", "RECIPE"]),
        ("onnx", "export", ["export", "run"]),
        ("torch", "export", ["gather", "run", "-o", "gathered"]),
        ("jinja2", "export", ["bench", "bundle"]),
        ("onnx", "train,export", ["shrink", "run"]),
        ("uvicorn", "serve", ["serve", "bundle"]),
    ],
)
def test_what_is_not_installed_is_one_line_that_says_how(
    tmp_path: Path, tiny_model: Path, package: str, extra: str, command: list[str]
) -> None:
    (tmp_path / "data.jsonl").write_text('{"text": "a", "label": "x"}\n')
    keys = ("name: bare", "task: text-classification", f"model: {tiny_model}", "data: {train: data.jsonl}")
    (tmp_path / "RECIPE").write_text("\n".join([*keys, "tokens: {max_length: 32}"]))
    code = f"import sys; sys.modules[{package!r}] = None; from bertline.launch.command import main; main(sys.argv[1:])"
    line = [sys.executable, "-c", code, *command]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    advice = f"in bertline's folder: pip install -c constraints.txt '.[{extra}]'"
    assert (done.returncode, done.stderr) == (2, f"{package} is not installed; {advice}\n")


def test_a_dry_run_starts_nothing(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.jsonl").write_text('{"text": "a", "label": "x"}\n')
    keys = ("name: dry", "task: text-classification", f"model: {tiny_model}", "data: {train: data.jsonl}")
    (tmp_path / "dry.yaml").write_text("\n".join([*keys, "tokens: {max_length: 32}"]))
    result = CliRunner().invoke(main, ["train", "dry.yaml", "--ranks", "2", "--dry-run", "--set", "training.epochs=7"])
    assert result.exit_code == 0, result.stderr
    assert "epochs: 7" in result.stdout
    assert "--module bertline.train dry.yaml --set training.epochs=7 --run runs/dry" in result.stdout
    assert "-m bertline.launch.deepspeed_launcher --log_level=critical" in result.stdout
    _, config, _ = result.stdout.split("---\n")
    assert json.loads(config)["train_micro_batch_size_per_gpu"] == 16
    planned = json.loads(CliRunner().invoke(main, ["train", "dry.yaml", "--ranks", "2", "--dry-run", "--json"]).stdout)
    assert planned["recipe"]["training"]["epochs"] == 3
    assert planned["deepspeed"] == json.loads(config)
    assert planned["command"][-2:] == ["--run", "runs/dry"]
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_takes_gpus_of_other_machines_to_compute_in_bf16(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A login node has none, and those of the ranks decide."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (tmp_path / "data.jsonl").write_text('{"text": "a", "label": "x"}\n')
    keys = ("name: dry", "task: text-classification", f"model: {tiny_model}", "data: {train: data.jsonl}")
    (tmp_path / "dry.yaml").write_text("\n".join([*keys, "tokens: {max_length: 32}"]))
    (tmp_path / "hosts").write_text("one slots=8\ntwo slots=8\n")
    planned = train.plan(Path("dry.yaml"), Devices.choose(hostfile=Path("hosts")))
    assert planned.deepspeed["torch_autocast"]["enabled"]
    assert "fp16" not in planned.deepspeed

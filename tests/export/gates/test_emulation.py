"""Checking a bundle on an emulated CPU, and the notices about it."""

import json
import shutil
from pathlib import Path

import pytest

from bertline.artifacts import bundle as bundles
from bertline.artifacts import files, machine
from bertline.artifacts.errors import GateError
from bertline.export.export import export
from bertline.export.gates import emulation
from bertline.export.options import ExportOptions
from tests.export.conftest import measure_briefly

needs_emulator = pytest.mark.skipif(
    shutil.which(emulation.EMULATOR) is None, reason=f"{emulation.EMULATOR} (Debian's qemu-user) is not installed"
)


def test_this_machines_class_needs_no_emulation(tmp_path: Path) -> None:
    assert emulation.prove(tmp_path, "avx2", "avx2") is None


def test_what_cannot_be_emulated_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for target, here in (("arm64", "avx2"), ("avx2", "arm64")):
        said = emulation.prove(tmp_path, target, here)
        assert said == f"answers on a CPU of class {target} were not checked: it cannot be emulated"
    monkeypatch.setenv("PATH", str(tmp_path))
    said = emulation.prove(tmp_path, "avx2", "avx512_vnni")
    assert said == "answers on a CPU of class avx2 were not checked: qemu-x86_64 is not installed"


def test_what_was_not_checked_is_told_by_all_papers(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure_briefly(monkeypatch)
    monkeypatch.setattr(emulation, "EMULATOR", "no-such-program")
    here = machine.cpu_class()
    target = "avx2" if here == "arm64" else "arm64"
    export(str(run), tmp_path / "bundle", ExportOptions(0.05, target=target, only=("int8-signed-fused",)))
    news = f"answers on a CPU of class {target} were not checked: it cannot be emulated"
    assert news in bundles.verify(tmp_path / "bundle").notices
    assert news in (tmp_path / "bundle/README.md").read_text()


@needs_emulator
def test_a_bundle_is_loaded_as_on_that_cpu(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure_briefly(monkeypatch)
    folder = tmp_path / "bundle"
    export(str(run), folder, ExportOptions(0.05, target="avx2", only=("int8-signed-fused",)))
    manifest = json.loads((folder / "bertline.json").read_text())
    manifest["golden"][0]["logits"][0] += 1.0
    files.write_json(folder / "bertline.json", manifest)
    with pytest.raises(
        GateError, match=r"on an emulated CPU of class avx2 .* the bundle fails: .*golden text 0: logits differ by"
    ):
        emulation.prove(folder, "avx2", "another")

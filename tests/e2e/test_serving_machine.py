"""A machine that only serves: a fresh venv with the base dependencies has no torch, and answers all the same."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.command import Line

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy to install from: a build writes beside the sources, and may take from there what an earlier one left."""
    unwanted = shutil.ignore_patterns(".*", "build", "runs", "bundles", "*.egg-info", "__pycache__")
    return Path(shutil.copytree(ROOT, tmp_path / "checkout", symlinks=True, ignore=unwanted))


def test_predict_and_inspect_need_no_torch(line: Line, checkout: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    install = [*pip, "install", "--quiet", "--no-compile", "--constraint", checkout / "constraints.txt", checkout]
    done = subprocess.run(install, capture_output=True, text=True)
    broken = [told for told in done.stderr.splitlines() if "connection broken by" in told]
    if done.returncode and broken:
        pytest.skip(f"pip reaches no index: {broken[0]}")
    assert done.returncode == 0, done.stderr
    installed = json.loads(subprocess.check_output([*pip, "list", "--format", "json"]))
    assert not {"torch", "transformers", "datasets", "scikit-learn", "deepspeed"} & {one["name"] for one in installed}

    package = next((tmp_path / "venv").glob("lib/python3*/site-packages/bertline"))
    for name in ("py.typed", "launch/recipes/demo.yaml", "bench/report/report.html.j2"):
        assert (package / name).is_file(), name

    command = [python.with_name("bertline")]
    bundle = line.folder / "bundles/reviews"
    answers = subprocess.check_output([*command, "predict", bundle, "loved it", "hated it", "--json"], text=True)
    assert [set(json.loads(row)["scores"]) for row in answers.splitlines()] == [{"negative", "positive"}] * 2
    told = json.loads(subprocess.check_output([*command, "inspect", bundle, "--json"]))
    assert told["kind"] == "bundle"
    assert "torch" not in json.loads(subprocess.check_output([*command, "doctor", "--json"]))["versions"]

"""What `make` does before anything is installed."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What the Makefile reads, without a venv."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def make(checkout: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["make", *arguments], cwd=checkout, capture_output=True, text=True)


def test_a_python_that_is_too_old_is_refused_before_a_venv_is_made_of_it(checkout: Path) -> None:
    old = checkout / "python3.10"
    old.write_text(
        f"""#!/bin/sh\nexec {sys.executable} -c 'import sys; sys.version_info = (3, 10); exec(sys.argv[2])' "$@"\n"""
    )
    old.chmod(0o755)
    done = make(checkout, "demo", f"PYTHON={old}")
    assert done.returncode != 0
    assert "bertline needs Python 3.11 or newer; name one: make demo PYTHON=python3.12" in done.stderr
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize(("target", "expected"), [("demo", False), ("test", True), ("lint", True)])
def test_only_tests_and_lint_install_what_developers_need(checkout: Path, target: str, expected: bool) -> None:
    done = make(checkout, "--dry-run", target)
    assert done.returncode == 0, done.stderr
    assert ("dev]" in done.stdout) is expected

"""What setup.py adds to pyproject.toml, on a package of the same layout; and pins that pyproject.toml allows."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = """
[project]
name = "bertline"
version = "0"
[tool.setuptools.packages.find]
include = ["bertline*"]
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A package with one linked folder, and our setup.py."""
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch" / "__init__.py").touch()
    (tmp_path / "bertline").mkdir()
    (tmp_path / "bertline" / "__init__.py").touch()
    (tmp_path / "bertline" / "launch").symlink_to("../launch")
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    shutil.copy(ROOT / "setup.py", tmp_path)
    return tmp_path


def build(checkout: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "setup.py", "build"], cwd=checkout, capture_output=True, text=True)


def test_a_copy_that_has_lost_its_links_is_refused(checkout: Path) -> None:
    link = checkout / "bertline" / "launch"
    link.unlink()
    link.write_text("../launch")  # as Python's zipfile, and so pip, unpacks a link
    done = build(checkout)
    assert done.returncode == 1
    assert "install from a git clone or a .tar.gz" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_an_earlier_build_left_is_not_installed(checkout: Path) -> None:
    built = checkout / "build" / "lib" / "bertline"
    built.mkdir(parents=True)
    (built / "gone.py").touch()
    done = build(checkout)
    assert done.returncode == 0, done.stderr
    assert {path.relative_to(built).as_posix() for path in built.rglob("*.py")} == {"__init__.py", "launch/__init__.py"}


def test_every_pin_is_allowed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    lines = (Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if line[:1].isalpha())
    pins = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in lines}
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement

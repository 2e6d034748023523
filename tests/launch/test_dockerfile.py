"""The training image: there is no Docker here, so its instructions are read, and its copies made."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from bertline import __version__

ROOT = Path(__file__).parents[2]
INSTRUCTIONS = [
    tuple(line.split(maxsplit=1))
    for line in (ROOT / "launch" / "cluster" / "train.Dockerfile").read_text().replace("\\\n", "").splitlines()
    if line and not line.startswith("#")
]


def arguments(instruction: str) -> list[str]:
    """Those of each such instruction."""
    return [words for name, words in INSTRUCTIONS if name == instruction]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """The folder that the image is installed from."""
    folder = tmp_path / "image"
    folder.mkdir()
    for words in arguments("COPY"):
        *sources, target = words.split()
        for source in sources:
            if (ROOT / source).is_dir():
                caches = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / source, folder / target, symlinks=True, ignore=caches)
            else:
                shutil.copy(ROOT / source, folder / target)
    return folder


def test_it_is_built_of_known_instructions() -> None:
    names = [name for name, _ in INSTRUCTIONS]
    assert names[0] == "FROM"
    assert set(names) <= {"FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "ENTRYPOINT"}
    assert json.loads(arguments("ENTRYPOINT")[0]) == ["bertline"]
    assert names.index("USER") > names.index("RUN")
    assert arguments("USER") == ["1000"]


def test_nccl_finds_what_it_uses_infiniband_with() -> None:
    (line,) = (words for words in arguments("RUN") if words.startswith("apt-get"))
    assert {"libibverbs1", "ibverbs-providers"} <= {*line.split()}


def test_each_link_of_the_package_leads_to_a_folder_that_is_copied(image: Path) -> None:
    links = [path for path in (image / "bertline").iterdir() if path.is_symlink()]
    assert links
    assert [link.name for link in links if not link.is_dir()] == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["-c", "import bertline; print(bertline.__file__)"], "{image}/bertline/__init__.py"),
        (["-c", "import bertline.train.setup, bertline.export.export; print('imported')"], "imported"),
        (["-m", "bertline.launch.command", "--version"], __version__),
        (["-m", "bertline.train", "--help"], "usage: bertline.train"),
    ],
)
def test_what_is_copied_is_all_that_runs(image: Path, line: list[str], said: str) -> None:
    """From a folder of its own, with the packages that are installed here, but not with bertline as it is installed."""
    packages = os.pathsep.join([str(image), sysconfig.get_path("purelib")])
    # -S: an editable install would serve from the checkout what was not copied
    done = subprocess.run(
        [sys.executable, "-S", *line],
        cwd=image,
        env={**os.environ, "PYTHONPATH": packages},
        capture_output=True,
        text=True,
    )
    assert said.format(image=image) in done.stdout, done.stderr


def test_the_extras_and_the_constraints_are_there(image: Path) -> None:
    (line,) = (words for words in arguments("RUN") if words.startswith("pip"))
    (extras,) = re.findall(r"'\.\[(.*)\]'", line)
    project = (image / "pyproject.toml").read_text()
    assert f"'.[{extras}]'    # where models are made" in (ROOT / "README.md").read_text()
    assert all(re.search(rf"^{extra} = \[", project, re.MULTILINE) for extra in extras.split(","))
    assert (image / "constraints.txt").read_text().count("==") > 50

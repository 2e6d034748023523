"""What pyproject.toml cannot do: refuse a copy that would install nothing, and clear what an earlier build left."""

import shutil
from pathlib import Path

from setuptools import setup

if not Path("bertline", "launch").is_dir():
    raise SystemExit(
        "bertline/ should hold links to the folders beside it, but this copy has lost them, as a zip's often has: "
        "install from a git clone or a .tar.gz"
    )
shutil.rmtree("build/lib", ignore_errors=True)  # setuptools would install modules that are gone from the sources
setup()

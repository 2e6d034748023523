"""The cache that runs share: tokenized data, tokenizers, students and teachers' outputs, each made once.

Each folder is named by a fingerprint of everything it depends on: contents, settings, and the code and packages that
make it. A folder appears complete, by a rename, and may be removed while no run uses it.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from bertline.artifacts import files, machine
from bertline.artifacts.errors import InputError

FOLDER = ".bertline-cache"
"""Beside the run: on the disk that all ranks share, where the next run finds it."""
CODE = ("artifacts", "models", "serve", "tasks", "train")
"""Our folders that make what is cached: all of each, because a list of modules would miss one some day."""
PACKAGES = (
    "datasets", "numpy", "onnxruntime", "openvino", "pyarrow", "safetensors", "scikit-learn", "tokenizers", "torch",
    "transformers",
)  # fmt: skip
"""The packages that make it."""


def place(cache: Path, kind: str, made_of: Mapping[str, Any]) -> Path:
    """The folder for something to be cached; its name changes with everything that the content depends on.

    Args:
        cache: the folder that holds it.
        kind: the prefix of its name.
        made_of: everything it is made of, as plain JSON values; the code and packages that make it are added.
    """
    package = Path(__file__).parents[1]
    makers = {
        "code": [files.sha256(path) for folder in CODE for path in sorted((package / folder).rglob("*.py"))],
        "versions": machine.versions(*PACKAGES),
    }
    whole = json.dumps({**made_of, **makers}, sort_keys=True)
    return cache / f"{kind}-{hashlib.sha256(whole.encode()).hexdigest()[:32]}"


def lock_of(run: Path) -> Path:
    """The file that rank 0 locks while a run is trained, outside of its folder, which may not exist yet."""
    run = run.absolute()
    return run.parent / FOLDER / f"{run.name}.lock"


def make_once(folder: Path, fill: Callable[[Path], None]) -> Path:
    """The folder, filled if it does not exist; another process may make the same at the same time.

    Args:
        folder: from `place`.
        fill: writes the content into a temporary folder.

    Raises:
        InputError: as `fill`, or the disk is full.
    """
    if folder.exists():
        return folder
    try:
        if not (ignore := folder.parent / ".gitignore").exists():
            files.write_text(ignore, "*\n")  # a run may lie in a Git repository
        files.remove_left(folder)
        with files.new_folder(folder) as temporary:
            fill(temporary)
    except (InputError, OSError, SafetensorError) as error:  # also if another process was quicker to rename
        if folder.exists():
            return folder
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder}: could not be written ({error}); make room, or name another --run") from error
    return folder

"""What a run makes once and keeps for the next: data as a model reads it, tokenizers, students, a teacher's answers.

A folder is named by a fingerprint of all that it is made of: contents, settings, and the code and packages that make
it. It appears whole, by a rename. Any may be removed.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from bertline.artifacts import files, machine
from bertline.artifacts.errors import InputError

FOLDER = ".bertline-cache"
"""Beside the run: on the disk that all ranks see, and found again by the next run there."""


def place(cache: Path, kind: str, made_of: Mapping[str, Any], code: Sequence[str], packages: Sequence[str]) -> Path:
    """The folder of what is made of something: made of anything else, or by others, it has another.

    Args:
        cache: where it is kept.
        kind: of thing, which its name begins with.
        made_of: what tells it from others, as JSON holds it.
        code: patterns of our own files that make it, as paths in the package.
        packages: those that make it besides.
    """
    found = {pattern: sorted(Path(__file__).parents[1].glob(pattern)) for pattern in code}
    assert all(found.values()), "each names a file"
    makers = {
        "code": [files.sha256(path) for paths in found.values() for path in paths],
        "versions": machine.versions(*packages),
    }
    whole = json.dumps({**made_of, **makers}, sort_keys=True)
    return cache / f"{kind}-{hashlib.sha256(whole.encode()).hexdigest()[:32]}"


def make_once(folder: Path, fill: Callable[[Path], None]) -> Path:
    """The folder, filled unless it is there: another process may be quicker to make the same.

    Args:
        folder: as `place` has it.
        fill: puts the content into a temporary folder.

    Raises:
        InputError: as `fill`; or there is no room to write.
    """
    if folder.exists():
        return folder
    try:
        if not (ignore := folder.parent / ".gitignore").exists():
            files.write_text(ignore, "*\n")  # a run may stand in somebody's repository
        files.remove_left(folder)
        with files.new_folder(folder) as temporary:
            fill(temporary)
    except (InputError, OSError, SafetensorError) as error:  # of the rename, too, where another has come between
        if folder.exists():
            return folder
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder}: could not be written ({error}); make room, or name another --run") from error
    return folder

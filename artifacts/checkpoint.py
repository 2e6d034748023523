"""A checkpoint of a run on disk: its index, `checkpoint.json`, and the state of the run stored in it.

The index is written last. It holds the size and sha256 of every other file, and its own sha256, which tells a complete
checkpoint from a damaged one, and both from one that another version of bertline wrote.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from bertline.artifacts import files
from bertline.artifacts.errors import DamagedError, InputError, one_line
from bertline.artifacts.files import FileEntry

INDEX = "checkpoint.json"
VERSION: Literal[1] = 1
"""Changes with the format of the index."""


class State(BaseModel):
    """The progress of a run: everything besides weights and optimizer that the next step needs, and running totals."""

    model_config = ConfigDict(extra="forbid")

    ranks: int
    precision: str
    data: str
    """Fingerprint of the splits."""
    started: str
    step: int = 0
    """Completed optimizer steps."""
    evaluated: int = 0
    """Step of the last evaluation."""
    tokens: int = 0
    computed_tokens: int = 0
    """Tokens including padding."""
    training_seconds: float = 0.0
    """Time spent in optimizer steps."""
    since_best: int = 0
    """Evaluations since the best one."""
    seconds: float = 0.0
    """Time spent in steps, evaluations and checkpoints."""


class Index(BaseModel):
    """checkpoint.json."""

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[1] = VERSION
    state: State
    files: list[FileEntry]
    """Every file of the checkpoint except the index."""
    sha256: str = ""
    """Hash of this JSON with this value empty."""

    def dump(self) -> str:
        """The exact text of the file."""
        plain = self.model_copy(update={"sha256": ""}).model_dump_json(indent=2)
        digest = hashlib.sha256(plain.encode()).hexdigest()
        return self.model_copy(update={"sha256": digest}).model_dump_json(indent=2) + "\n"


def verify(checkpoint: Path) -> State:
    """Check every file of a checkpoint against its index and return the state.

    Raises:
        DamagedError: see `verify_files`.
        InputError: another version of bertline wrote it.
    """
    raw = verify_files(checkpoint)
    if (version := raw.get("schema_version", 0)) != VERSION:
        told = f"of schema_version {version}, not {VERSION}; use the bertline that wrote it"
        raise InputError(f"{checkpoint / INDEX}: {told}")
    return Index.model_validate(raw).state


def verify_files(checkpoint: Path) -> dict[str, Any]:
    """Check every file of a checkpoint of any version against its index and return the index as plain data.

    Raises:
        DamagedError: names the first file that differs, is missing or is not listed.
    """
    path = checkpoint / INDEX
    try:
        content = path.read_bytes().decode()
        raw = json.loads(content)
        if not _is_as_written(content, raw["sha256"]):
            raise DamagedError(f"{path}: not as it was written")
        listed = [FileEntry.model_validate(one) for one in raw["files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{path}: not readable ({one_line(error):.200})") from None
    files.compare(checkpoint, listed, besides=[INDEX])
    return dict(raw)


def _is_as_written(content: str, digest: str) -> bool:
    """Whether a text matches the hash written in it. Nothing else of its format is assumed: versions differ."""
    plain = content.removesuffix("\n").replace(digest, "")
    return content.endswith("\n") and hashlib.sha256(plain.encode()).hexdigest() == digest

"""Pushes a verified bundle to a model hub in one commit.

The repository becomes the bundle: the same commit deletes all other files (its history keeps them), since a folder with
more files than its manifest lists is refused when it is loaded. A repository of anything but a bundle is left alone.
"""

import re
from pathlib import Path
from typing import Any

from bertline import __version__
from bertline.artifacts import bundle
from bertline.artifacts.bundle import MANIFEST, SIGNATURE, Manifest
from bertline.artifacts.errors import BertlineError, InputError, one_line
from bertline.artifacts.say import Say

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*")
LAST_WORDS = (
    "A repository that push creates is private. Do not edit its files, not even README.md: the bundle would be refused "
    "when it is loaded; pushing again fixes it."
)
HUBS_OWN = {".gitattributes"}
"""Files that the hub itself writes and that cannot be left out."""


def push(folder: Path, repo: str, dry_run: bool, say: Say) -> dict[str, Any]:
    """Upload a bundle to the hub that huggingface_hub is set to (HF_ENDPOINT, HF_TOKEN).

    A new repository is private: bertline.json and README.md hold a few of the texts that the bundle was measured on,
    and bertline.json also names files and columns, in the recipe, the source and the options; their owner must decide
    whether to publish them.

    Args:
        folder: the bundle.
        repo: ORG/NAME, or USER/NAME.
        dry_run: list the files without using the network.
        say: receives a line for each file, and the result.

    Returns:
        What `bertline push --json` prints; commit is None if nothing was sent.

    Raises:
        InputError: `folder` is not a bundle, `repo` is not a valid name or not a repository of a bundle, or there is no
            token.
        DamagedError: the bundle differs from its manifest.
        BertlineError: the hub cannot be reached, or refuses.
    """
    if not _NAME.fullmatch(repo):
        raise InputError(f"{repo}: not a repository's name; write ORG/NAME, or USER/NAME")
    manifest = bundle.verify(folder)
    sizes = {name: (folder / name).stat().st_size for name in _names(folder, manifest)}
    for name, size in sizes.items():
        say(f"{size:>15,}  {name}")
    say(f"{sum(sizes.values()):>15,}  bytes in {len(sizes)} files")
    commit = None if dry_run else _upload(folder, repo, manifest, list(sizes))
    say(f"{repo}: nothing was sent" if commit is None else f"{commit}\n{LAST_WORDS}")
    return {
        "bundle": str(folder),
        "repo": repo,
        "files": [{"path": name, "size_bytes": size} for name, size in sizes.items()],
        "size_bytes": sum(sizes.values()),
        "commit": commit,
    }


def _names(folder: Path, manifest: Manifest) -> list[str]:
    signed = [SIGNATURE] if (folder / SIGNATURE).is_file() else []
    return sorted([*(entry.path for entry in manifest.files), MANIFEST, *signed])


def _upload(folder: Path, repo: str, manifest: Manifest, names: list[str]) -> str:
    """Push the files in one commit, and return its URL."""
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        raise InputError(f"{repo}: no token to write with: run hf auth login, or set HF_TOKEN")
    hub = HfApi(library_name="bertline", library_version=__version__)
    try:
        hub.create_repo(repo, private=True, exist_ok=True)
        operations = _operations(folder, names, set(hub.list_repo_files(repo)) - HUBS_OWN, repo)
        message = f"{manifest.name}, sealed by bertline {manifest.versions.get('bertline', __version__)}"
        return hub.create_commit(repo, operations, commit_message=message).commit_url
    except (OSError, ValueError, RuntimeError) as error:  # the client's errors derive from these
        raise BertlineError(f"{repo}: not sent: {hub.endpoint} {_reason(error)}") from error


def _operations(folder: Path, names: list[str], there: set[str], repo: str) -> list[Any]:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    foreign = there - {"README.md", "LICENSE"}  # the hub's web page creates these in a new repository
    if foreign and MANIFEST not in there:
        raise InputError(f"{repo}: holds {min(foreign)} but no {MANIFEST}: not a bundle; name another repository")
    return [
        *(CommitOperationAdd(name, folder / name) for name in names),
        *(CommitOperationDelete(name) for name in sorted(there - set(names))),
    ]


def _reason(error: Exception) -> str:
    """The hub's message, or else the client's, in one line."""
    cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
    unreached = isinstance(cause, OSError) and getattr(cause, "response", None) is None
    words = getattr(cause, "server_message", None) or str(cause)
    return f"{'was not reached' if unreached else 'refused it'}: {one_line(words)}"

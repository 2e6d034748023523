"""A bundle goes to a model hub: proven whole first, then all of it in one commit, and nothing besides.

The repository becomes the bundle: what the bundle does not hold leaves it with the same commit (its history keeps it),
for a folder that holds more than its manifest lists is refused wherever it is loaded. A repository that is something
else is left alone.
"""

import re
from pathlib import Path
from typing import Any

from bertline import __version__
from bertline.artifacts import bundle
from bertline.artifacts.bundle import MANIFEST, SIGNATURE, Manifest
from bertline.artifacts.errors import BertlineError, InputError
from bertline.artifacts.say import Say

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*")
LAST_WORDS = (
    "A repository that push makes is private. Edit no file there, not even README.md: the bundle would be refused "
    "wherever it is loaded; to push it again mends that."
)
HUBS_OWN = {".gitattributes"}
"""Which file is stored how, as the hub writes it; it cannot be left out."""


def push(folder: Path, repo: str, dry_run: bool, say: Say) -> dict[str, Any]:
    """Upload a bundle to the hub that huggingface_hub is set to (HF_ENDPOINT, HF_TOKEN).

    A repository that does not exist is made private: bertline.json and README.md hold a few of the texts that the
    bundle was measured on, and whose they are is for its owner to judge before the world reads them.

    Args:
        folder: the bundle.
        repo: ORG/NAME, or USER/NAME.
        dry_run: tell what would go, and ask nothing of the network.
        say: takes a line for each file, and what came of it.

    Returns:
        What `bertline push --json` prints: commit is None where nothing was sent.

    Raises:
        InputError: `folder` is no bundle, `repo` no such name or something else than a bundle, or there is no token.
        DamagedError: the bundle is not what its manifest says.
        BertlineError: the hub cannot be reached, or says no.
    """
    if not _NAME.fullmatch(repo):
        raise InputError(f"{repo}: no name of a repository; write ORG/NAME, or USER/NAME")
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
    """The URL of the commit."""
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        raise InputError(f"{repo}: no token to write with: hf auth login, or set HF_TOKEN")
    hub = HfApi(library_name="bertline", library_version=__version__)
    try:
        hub.create_repo(repo, private=True, exist_ok=True)
        operations = _operations(folder, names, set(hub.list_repo_files(repo)) - HUBS_OWN, repo)
        message = f"{manifest.name}, sealed by bertline {manifest.versions.get('bertline', __version__)}"
        return hub.create_commit(repo, operations, commit_message=message).commit_url
    except (OSError, ValueError, RuntimeError) as error:  # the client's own errors are of these
        raise BertlineError(f"{repo}: not sent: {hub.endpoint} {_reason(error)}") from error


def _operations(folder: Path, names: list[str], there: set[str], repo: str) -> list[Any]:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    foreign = there - {"README.md", "LICENSE"}  # what the hub's own page for a new repository makes
    if foreign and MANIFEST not in there:
        raise InputError(f"{repo}: holds {min(foreign)} and no {MANIFEST}: something else than a bundle; name another")
    return [
        *(CommitOperationAdd(name, folder / name) for name in names),
        *(CommitOperationDelete(name) for name in sorted(there - set(names))),
    ]


def _reason(error: Exception) -> str:
    """What the hub said, or else what the client did, in a line."""
    cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
    unreached = isinstance(cause, OSError) and getattr(cause, "response", None) is None
    words = getattr(cause, "server_message", None) or str(cause)
    return f"{'was not reached' if unreached else 'says no'}: {' '.join(words.split())}"

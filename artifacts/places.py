"""Where a model or data file may be: a local path, `pkg://PACKAGE/PATH` inside an installed package, or a hub id.

A hub id is `name` or `organization/name`, optionally followed by `:configuration` (data sets only) and `@revision`.
`pkg://` finds a package's folder without importing it: naming data must not run code. Only hub ids use the network; for
a model, only safetensors weights, configuration and tokenizer files are downloaded.
"""

import difflib
import glob
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

from bertline.artifacts import encoder, tables
from bertline.artifacts.errors import InputError, first_line, install_advice

SETTINGS = ("*.json", "*.txt", "*.model")
"""Configuration and tokenizer files of a hub model."""
WEIGHTS = ("*.safetensors",)
_COMMIT = re.compile("[0-9a-f]{40}")
_HUB_ID = re.compile(
    r"(?P<name>[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?)(:(?P<config>[^\s:@/\\<>|?*]+))?(@(?P<revision>[\w./-]+))?"
)
_SHARD = re.compile(r"(.+)-\d+-of-\d+\.")
"""Name of a shard of a split, as written by `datasets`."""
_NAMES = {"train": "train", "validation": "validation|valid|val|dev", "test": "test"}
"""What the names of a split's files and folders begin with."""
_SHOWN = 5
"""Files of a folder that an error lists; the rest are counted."""


def is_hub_id(place: str) -> bool:
    """Whether `place` can only be a hub id: it has the form of one, does not exist, and does not look like a file."""
    return _HUB_ID.fullmatch(place) is not None and not Path(place).exists() and not _looks_like_file(place)


def split_hub_id(place: str) -> tuple[str, str | None, str | None]:
    """Split a hub id into (name, configuration, revision); any other place, such as a local folder, is all name."""
    match = None if Path(place).exists() else _HUB_ID.fullmatch(place)
    return (match["name"], match["config"], match["revision"]) if match else (place, None, None)


def check_model_id(place: str) -> None:
    """Reject a hub id that only a data set can have.

    Raises:
        InputError: it names a configuration.
    """
    name, config, revision = split_hub_id(place)
    if config is not None:
        meant = name if revision is None else f"{name}@{revision}"
        raise InputError(f"{place}: only data sets have a configuration (:{config}); for the model write {meant}")


def model_folder(place: str, weights: bool = True) -> Path:
    """The local folder of a model; if `place` is a hub id, the model is downloaded first, with or without weights.

    Raises:
        InputError: there is no such folder, package or hub model, a data set configuration is named, the hub cannot be
            reached, or the model on the hub has no safetensors.
    """
    if is_hub_id(place):
        folder = _download(place, [*SETTINGS, *WEIGHTS] if weights else [*SETTINGS])
        if weights and not any(folder.glob("*.safetensors")):
            raise InputError(_without_safetensors(place, folder))
        return folder
    folder = _local(place)
    if not folder.is_dir():
        raise InputError(f"{place}: no such model folder{near(place)}; name a folder, pkg://PACKAGE/PATH or a hub id")
    return folder


def revision(folder: Path) -> str | None:
    """The commit of a folder in the hub client's cache, which is its name; None for any other folder."""
    return folder.name if _COMMIT.fullmatch(folder.name) else None


def downloading(hub_id: str, folder: str | Path) -> str:
    """The command that downloads a hub repository into a folder, where its files may be changed."""
    name, _, revision = split_hub_id(hub_id)
    asked = "" if revision is None else f" --revision {revision}"
    return f"hf download {name}{asked} --local-dir {folder}"


def near(place: str | Path) -> str:
    """Suggestion for a message about a missing folder: folders beside it with similar names; "" if there are none."""
    path = expanded(place)
    beside = sorted(each.name for each in path.parent.iterdir() if each.is_dir()) if path.parent.is_dir() else []
    alike = [str(path.with_name(name)) for name in difflib.get_close_matches(path.name, beside)]
    return f" (did you mean {' or '.join(alike)}?)" if alike else ""


def data_files(place: str | Sequence[str], split: str = "train") -> list[Path]:
    """The local files that `place` names, globs sorted.

    Args:
        place: a file, a glob, `pkg://…`, or a list of these.
        split: the split the files are for; if `place` is a folder, the error suggests files named after the split.

    Raises:
        InputError: one line for each name that matches no file.
    """
    faults: list[str] = []
    files: list[Path] = []
    for name in [place] if isinstance(place, str) else place:
        try:
            path = _local(name)
        except InputError as error:
            faults += error.faults
            continue
        pattern = glob.escape(str(path)) if path.exists() else str(path)
        found = sorted({Path(match) for match in glob.glob(pattern, recursive=True)})
        files += [match for match in found if match.is_file()]
        if not any(match.is_file() for match in found):
            unnamed = _unnamed(name, path, split) if path.is_dir() else None
            hub = " or a hub id" if isinstance(place, str) else "; a hub id stands alone, not in a list"
            faults.append(unnamed or f"{name}: no such file; name a file, a glob or pkg://PACKAGE/PATH{hub}")
    if faults:
        raise InputError(*faults)
    return files


def _unnamed(name: str, folder: Path, split: str) -> str:
    """The message for a folder where files are expected: suggests those of the split, tables before JSON.

    If none is named after the split, some of the files are listed: a glob might match those of other splits.
    """
    inside = [file for depth in ("*", "*/*") for file in sorted(folder.glob(depth)) if file.is_file()]
    # `datasets` writes cache-* files
    found = [file for file in inside if _looks_like_data(file) and not file.name.startswith("cache-")]
    if not found:
        return f"{name}: is a folder, without a data file; name a file, a glob, pkg://PACKAGE/PATH or a hub id"
    kinds = (*tables.BINARIES, *tables.TEXTS)
    found.sort(key=lambda file: kinds.index(tables.kind(file)[0]))
    named = re.compile(rf"({_NAMES.get(split, split)})(?![a-z])")
    own = next((file for file in found if any(map(named.match, file.relative_to(folder).parts))), None)
    if own is None:
        listed = list(dict.fromkeys(str(_all_shards(file).relative_to(folder)) for file in found))
        more = f" and {len(listed) - _SHOWN:,} more" if len(listed) > _SHOWN else ""
        return f"{name}: is a folder; name files in it (it has {', '.join(listed[:_SHOWN])}{more})"
    is_named = named.match(own.name) or _SHARD.match(own.name)
    files = _all_shards(own) if is_named else own.with_name(f"*{''.join(tables.kind(own))}")
    return f"{name}: is a folder; name its files: {name.rstrip('/')}/{files.relative_to(folder)}"


def _all_shards(file: Path) -> Path:
    """The glob for all shards of the split that a file is one of; any other file itself."""
    shard = _SHARD.match(file.name)
    return file.with_name(f"{shard[1]}-*{''.join(tables.kind(file))}") if shard else file


def expanded(place: str | Path) -> Path:
    """A local path with `~` and `~NAME` expanded.

    Raises:
        InputError: there is no user of that name.
    """
    try:
        return Path(place).expanduser()
    except RuntimeError:
        raise InputError(f"{place}: there is no user of that name; write the folder out") from None


def _local(place: str) -> Path:
    if not place.startswith("pkg://"):
        return expanded(place)
    package, _, inside = place.removeprefix("pkg://").partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        advice = f"pip install it; for the demo's, {install_advice('demo')}"
        raise InputError(f"{place}: package {package!r} is not installed; {advice}")
    folder = Path(next(iter(spec.submodule_search_locations)))
    path = folder / inside
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{place}: leads out of package {package!r}")
    return path


def _looks_like_data(path: Path) -> bool:
    return tables.kind(path)[0] in tables.KINDS


def _looks_like_file(place: str) -> bool:
    suffix, compression = tables.kind(Path(place))
    return compression != "" or suffix in (*tables.KINDS, ".yaml", ".onnx", ".safetensors")


def _download(place: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    check_model_id(place)
    name, _, revision = split_hub_id(place)
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        meant_here = near(place) or ("/" in place and Path(place).parent.is_dir())
        absent = f"no such folder{near(place)}; and" if meant_here else "not a local folder, and"
        raise InputError(f"{place}: {absent} it could not be downloaded from the hub ({first_line(error)})") from error


def _without_safetensors(place: str, folder: Path) -> str:
    """The message for a hub model without safetensors; `folder` has its other files."""
    from huggingface_hub import HfApi

    name, _, revision = split_hub_id(place)
    try:
        files = HfApi().list_repo_files(name, revision=revision)
    except OSError as error:  # the files in the folder come from the cache
        failed = f"could not be downloaded from the hub ({first_line(error)})"
        return f"{place}: its weights are not on this machine, and {failed}"
    called = repr(name) if revision is None else f"{name!r}, revision={revision!r}"
    told = encoder.without_safetensors(files, encoder.check(folder, weights=False), called)
    converted = (
        f". If a pull request on the hub has converted them, name {name}@refs/pr/N" if encoder.pickled(files) else ""
    )
    return f"{place}: {told}{converted}"

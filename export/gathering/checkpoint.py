"""The folder of a DeepSpeed checkpoint, whoever wrote it: found, its files told apart by rank.

output/latest                   names one of the folders beside it
output/global_step500/          the files: this folder, or any that leads to it, may be named
checkpoint-500/global_step500/  as transformers' Trainer nests them, config.json and tokenizer beside
checkpoints/step-500/deepspeed/ as a run nests them, with an index beside
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from bertline.artifacts.errors import InputError
from bertline.artifacts.run import RunFolder

_NAME = re.compile(r"(bf16_)?(zero_pp_rank_(?P<rank>\d+)_)?mp_rank_00_(?P<kind>model|optim)_states\.pt")


@dataclass(frozen=True)
class Files:
    """The files of a checkpoint, in the order of the ranks that wrote them."""

    folder: Path
    model: list[Path]
    """One below ZeRO 3, one a rank there."""
    optimizer: list[Path]
    """One a rank; none at ZeRO 0."""


def find(place: Path) -> list[Path]:
    """The folders that hold a checkpoint's files: `place`, or those nearest below it, three levels down at most."""
    for inside in ("", "*/", "*/*/", "*/*/*/"):
        folders = {path.parent for path in place.glob(f"{inside}*mp_rank_*_model_states.pt")}
        if folders := {folder for folder in folders if not _is_hidden(folder.relative_to(place))}:
            return sorted(folders)
    return []


def choose(place: Path) -> Path:
    """The one checkpoint that `place` is, holds, or says is its latest; absolute, since what is around it counts.

    Raises:
        InputError: there is none, there are several, or `latest` names none of them.
    """
    place = Path(os.path.abspath(place))
    folders = find(place)
    if not folders:
        raise InputError(f"{place}: no DeepSpeed checkpoint; neither it nor a folder in it holds *_model_states.pt")
    several = f"name one of {', '.join(map(str, folders))}"
    latest = place / "latest"
    if latest.is_file() and (tag := latest.read_text(encoding="utf-8", errors="replace").strip()):
        if place / tag not in folders:
            raise InputError(f"{latest}: says {tag!r:.80}, which is not there; {several}")
        return place / tag
    if len(folders) > 1:
        raise InputError(f"{place}: holds {len(folders)} checkpoints and no word on which is the latest; {several}")
    return folders[0]


def by_rank(folder: Path) -> Files:
    """The files of a checkpoint.

    Raises:
        InputError: the model was cut into pieces by more than ZeRO, or a rank's file is missing.
    """
    ranked: dict[str, list[tuple[int, Path]]] = {"model": [], "optim": []}
    for path in folder.glob("*_states.pt"):
        if (match := _NAME.fullmatch(path.name)) is None:
            raise InputError(
                f"{path}: of a model cut by tensor, pipeline or expert parallelism; only what ZeRO cut is put together"
            )
        ranked[match["kind"]].append((int(match["rank"] or 0), path))
    for kind, numbered in ranked.items():
        ranks = sorted(rank for rank, _ in numbered)
        if ranks != list(range(len(ranks))):
            raise InputError(f"{folder}: holds *_{kind}_states.pt of ranks {ranks}: copy those of all ranks, once each")
    return Files(folder, *([path for _, path in sorted(numbered)] for numbered in ranked.values()))


def model_beside(folder: Path) -> Path | None:
    """The model folder written along with a checkpoint: Trainer's folder around it, best/ beside it or of its run."""
    around = [folder.parent, *(RunFolder(place).best for place in (folder.parent, folder.parent.parent.parent))]
    return next((place for place in around if (place / "config.json").is_file()), None)


def _is_hidden(folder: Path) -> bool:
    """Being written, as a run does it."""
    return any(part.startswith(".") for part in folder.parts)

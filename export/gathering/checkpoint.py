"""Finds the folder of a DeepSpeed checkpoint, from any program, and sorts its files by rank.

output/latest                   names one of the folders beside it
output/global_step500/          holds the files; this folder or one above it may be given
checkpoint-500/global_step500/  the layout of transformers' Trainer, with config.json and tokenizer beside it
checkpoints/step-500/deepspeed/ the layout of a run, with an index beside it
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
    """One per rank with ZeRO 3, otherwise one."""
    optimizer: list[Path]
    """One per rank; none with ZeRO 0."""


def find(place: Path) -> list[Path]:
    """The folders with a checkpoint's files: `place`, or the nearest ones below it, at most three levels down."""
    for inside in ("", "*/", "*/*/", "*/*/*/"):
        folders = {path.parent for path in place.glob(f"{inside}*mp_rank_*_model_states.pt")}
        if folders := {folder for folder in folders if not _is_hidden(folder.relative_to(place))}:
            return sorted(folders)
    return []


def choose(place: Path) -> Path:
    """The checkpoint folder that `place` is, contains, or names as its latest; absolute, since its parents matter.

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
            raise InputError(f"{latest}: names {tag!r:.80}, which does not exist; {several}")
        return place / tag
    if len(folders) > 1:
        raise InputError(f"{place}: holds {len(folders)} checkpoints and no file `latest`; {several}")
    return folders[0]


def by_rank(folder: Path) -> Files:
    """The files of a checkpoint.

    Raises:
        InputError: the model was partitioned by more than ZeRO, or a rank's file is missing.
    """
    ranked: dict[str, list[tuple[int, Path]]] = {"model": [], "optim": []}
    for path in folder.glob("*_states.pt"):
        if (match := _NAME.fullmatch(path.name)) is None:
            raise InputError(
                f"{path}: from tensor, pipeline or expert parallelism; only checkpoints of ZeRO alone are supported"
            )
        ranked[match["kind"]].append((int(match["rank"] or 0), path))
    for kind, numbered in ranked.items():
        ranks = sorted(rank for rank, _ in numbered)
        if ranks != list(range(len(ranks))):
            raise InputError(f"{folder}: holds *_{kind}_states.pt of ranks {ranks}: copy one from every rank")
    return Files(folder, *([path for _, path in sorted(numbered)] for numbered in ranked.values()))


def model_beside(folder: Path) -> Path | None:
    """The model folder that belongs to a checkpoint: Trainer's folder around it, or best/ beside it or in its run."""
    around = [folder.parent, *(RunFolder(place).best for place in (folder.parent, folder.parent.parent.parent))]
    return next((place for place in around if (place / "config.json").is_file()), None)


def _is_hidden(folder: Path) -> bool:
    """Whether the folder is temporary: a run writes a checkpoint in a hidden folder first."""
    return any(part.startswith(".") for part in folder.parts)

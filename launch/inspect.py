"""`bertline inspect`: what a folder is, where it comes from, what it measured; its checksums are verified first.

A bundle is loaded, so that what is refused here is what would be refused where it serves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bertline.artifacts import bundle, places, run
from bertline.artifacts.errors import InputError
from bertline.serve.engine import Engine


def facts(folder: Path) -> dict[str, Any]:
    """The summary of a run or the manifest of a bundle, once every file has been found to be the recorded one.

    Raises:
        InputError: `folder` is neither.
        DamagedError: a file differs, is missing or does not belong there, or the bundle would not load here.
    """
    if (folder / bundle.MANIFEST).exists():
        Engine.load(folder)
        manifest = bundle.read(folder)
        return {"kind": "bundle", "verified_files": len(manifest.files), **manifest.summary()}
    if run.RunFolder(folder).recipe.exists():
        summary = run.verify(folder)
        return {
            "kind": "run",
            "verified_files": len(summary.files),
            **summary.model_dump(mode="json", exclude={"files"}),
        }
    if not folder.exists():
        raise InputError(f"{folder}: no such folder{places.near(folder)}")
    raise InputError(f"{folder}: neither a run (run.json) nor a bundle ({bundle.MANIFEST})")

"""`bertline inspect`: what a folder is, where it comes from, what it measured; its checksums are verified first.

A bundle is also loaded, so that inspect refuses whatever a server would refuse.
"""

from pathlib import Path
from typing import Any

from bertline.artifacts import bundle, places, run
from bertline.artifacts.errors import InputError
from bertline.serve import engine


def facts(folder: Path, signed: str | None = None) -> dict[str, Any]:
    """The summary of a run or the manifest of a bundle, once every file matches its recorded checksum.

    Args:
        folder: the run or bundle.
        signed: sha256 of the manifest that a bundle must have; None accepts any.

    Raises:
        InputError: `folder` is neither.
        DamagedError: a file differs, is missing or does not belong there, or the bundle does not load here or is not
            the signed one.
    """
    if (folder / bundle.MANIFEST).exists():
        opened = engine.proven(folder, signed)
        return {
            "kind": "bundle",
            "version": opened.sha256[:12],
            "sha256": opened.sha256,
            "verified_files": len(opened.manifest.files),
            **opened.manifest.summary(),
        }
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

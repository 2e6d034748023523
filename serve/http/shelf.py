"""The bundles that a server answers from, by name; swapped all at once, or not at all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from bertline.artifacts import bundle as bundles
from bertline.artifacts import signature
from bertline.artifacts.errors import InputError
from bertline.serve.engine import Bundle
from bertline.serve.http.hugging_face import Format
from bertline.serve.http.limits import Limits
from bertline.serve.lanes import Lanes
from bertline.serve.model import Model

NAME = r"(?!\.{1,2}$)[A-Za-z0-9._-]+"
"""Of a bundle, in a path; . and .. are places there."""


class Shelf:
    """Models by name, which share the cores. The first is the one that a request without a name asks."""

    def __init__(self, folders: Sequence[Path], lanes: Lanes, limits: Limits, public_key: Path | None = None) -> None:
        """Load each bundle; its name is that of its folder.

        Args:
            folders: of the bundles.
            lanes: what they share.
            limits: of a request.
            public_key: whose owner must have signed each of them, whenever they are loaded.

        Raises:
            InputError: two have the same name, or one that no path can have; or as `Bundle` and `signature.verify`.
            DamagedError: as `Bundle`, `Bundle.engine` and `signature.verify`.
        """
        self._folders, self._public_key = list(folders), public_key
        self.lanes, self.limits = lanes, limits
        self.reload()

    def reload(self) -> None:
        """Load all bundles again, then answer from them. Raises as `Shelf`, and then all stay as they were."""
        names = [name(folder) for folder in self._folders]
        if twice := {one for one in names if names.count(one) > 1}:
            raise InputError(f"two bundles are called {min(twice)!r}, after their folders; rename one")
        folders = [folder.resolve() for folder in self._folders]  # a link that is turned from here on turns nothing
        signed = [None if self._public_key is None else signature.verify(one, self._public_key) for one in folders]
        entries = [Entry(*place, self.lanes, self.limits) for place in zip(names, folders, strict=True)]
        for entry, folder, sha256 in zip(entries, folders, signed, strict=True):
            signature.demand_same(folder, sha256, entry.bundle.sha256)
        self.entries = {entry.name: entry for entry in entries}

    @property
    def first(self) -> Entry:
        """The one that was named first."""
        return next(iter(self.entries.values()))


class Entry:
    """A bundle on the shelf."""

    def __init__(self, name: str, folder: Path, lanes: Lanes, limits: Limits) -> None:
        self.name, self.limits = name, limits
        self.bundle = Bundle(folder)
        self.version = self.bundle.sha256[:12]
        self.model = Model(self.bundle, lanes)
        self.model.prepare()
        self.manifest = self.bundle.manifest
        self.format = Format(self.manifest, limits)


def name(folder: Path) -> str:
    """What a bundle is called.

    Raises:
        InputError: the folder's name is none that a path can have.
    """
    found = folder.absolute().name
    if not re.fullmatch(NAME, found):
        raise InputError(
            f"{folder}: a bundle is called as its folder, and {found!r} is no name of letters, digits and ._-"
        )
    bundles.demand(folder)
    return found

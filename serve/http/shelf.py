"""The bundles that a server serves, by name; they are replaced all at once, or not at all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from bertline.artifacts import bundle as manifests
from bertline.artifacts.errors import InputError
from bertline.serve.engine import Bundle
from bertline.serve.http.hugging_face import Format
from bertline.serve.http.limits import Limits
from bertline.serve.lanes import Lanes
from bertline.serve.model import Model

NAME = r"(?!\.{1,2}$)[A-Za-z0-9._-]+"
"""Pattern of a bundle's name, which is part of URL paths: . and .. mean something else there."""


class Shelf:
    """Models by name, which share the cores. The first one answers requests that name none."""

    def __init__(self, folders: Sequence[Path], lanes: Lanes, limits: Limits, public_key: Path | None = None) -> None:
        """Load each bundle under the name of its folder.

        Args:
            folders: folders of the bundles.
            lanes: lanes that the models share.
            limits: limits of a request.
            public_key: key with which every bundle must be signed, also on reload; None to accept unsigned ones.

        Raises:
            InputError: two bundles have the same name, or one's name does not fit into a path; or as `Bundle`.
            DamagedError: as `Bundle` and `Bundle.engine`.
        """
        self._folders, self._public_key = list(folders), public_key
        self.lanes, self.limits = lanes, limits
        self.reload()

    def reload(self) -> None:
        """Load all bundles again, then switch to them. Raises as `Shelf`, and then the old ones stay in service."""
        names = [name(folder) for folder in self._folders]
        if twice := {one for one in names if names.count(one) > 1}:
            raise InputError(f"two bundles are named {min(twice)!r} after their folders; rename one")
        folders = [folder.resolve() for folder in self._folders]  # a symlink that changes from here on has no effect
        self.entries = {  # one after the other: until its engines are made, a bundle holds its model's bytes
            name: Entry(name, Bundle(folder, self._public_key), self.lanes, self.limits)
            for name, folder in zip(names, folders, strict=True)
        }

    @property
    def first(self) -> Entry:
        """The bundle that was given first."""
        return next(iter(self.entries.values()))


class Entry:
    """A bundle on the shelf, loaded and ready to answer."""

    def __init__(self, name: str, bundle: Bundle, lanes: Lanes, limits: Limits) -> None:
        self.name, self.bundle, self.limits = name, bundle, limits
        self.version = self.bundle.sha256[:12]
        self.model = Model(self.bundle, lanes)
        self.model.prepare()
        self.manifest = self.bundle.manifest
        self.format = Format(self.manifest, limits)


def name(folder: Path) -> str:
    """The name under which a bundle is served.

    Raises:
        InputError: the folder's name does not fit into a path, or the folder is not a bundle.
    """
    found = folder.absolute().name
    if not re.fullmatch(NAME, found):
        raise InputError(
            f"{folder}: named after its folder, a bundle needs a name of letters, digits and ._-, not {found!r}"
        )
    manifests.demand(folder)
    return found

"""What a machine of the cluster does: hold the bundle, and answer texts on all of its cores. Knows nothing of Ray."""

from collections.abc import Sequence
from pathlib import Path

from bertline import __version__
from bertline.artifacts import bundle, files, machine
from bertline.artifacts.errors import InputError
from bertline.serve import load
from bertline.tasks.task import Answer
from bertline.tasks.tokens import Text


class Worker:
    """One a machine, in a process of its own; answers from several threads."""

    def load(self, folder: Path, sha256: str, version: str, cores: int) -> str | None:
        """Load the bundle, before any text comes; gives its notice.

        Args:
            folder: where it is on this machine.
            sha256: of its manifest where the command runs.
            version: of bertline there.
            cores: logical ones that the cluster has of this machine.

        Raises:
            InputError: there is another bundle, or none; or another version of bertline.
            DamagedError: as `serve.load`.
        """
        if version != __version__:
            raise InputError(f"bertline {__version__} is here, {version} where the command runs; install one of them")
        bundle.demand(folder)
        if files.sha256(folder / bundle.MANIFEST) != sha256:
            raise InputError(f"{folder}: another bundle than where the command runs; copy that one here")
        self._model = load(folder, min(cores, machine.cores()))
        self._model.prepare()
        return self._model.bundle.notice

    def answer(self, texts: Sequence[Text]) -> list[Answer]:
        """The answers to texts, in order."""
        return [asked.result().answer for asked in self._model.submit(texts)]

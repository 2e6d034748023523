"""The worker on each machine of a cluster: holds the bundle, and answers texts on all cores. Knows nothing of Ray."""

from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

from bertline import __version__
from bertline.artifacts import bundle, files, machine
from bertline.artifacts.errors import InputError
from bertline.serve import load
from bertline.serve.lanes import Answered, NoAnswerError
from bertline.tasks.task import Answer
from bertline.tasks.tokens import Text


class NodeWorker:
    """Answers texts on one machine, from several threads; one per machine, in a process of its own."""

    def load(self, folder: Path, sha256: str, version: str, cores: int) -> str | None:
        """Load the bundle, before any text arrives; returns its notice.

        Args:
            folder: the bundle's folder on this machine.
            sha256: SHA-256 of the manifest where the command runs.
            version: version of bertline where the command runs.
            cores: logical cores of this machine that belong to the cluster.

        Raises:
            InputError: the folder holds another bundle or none, or the versions of bertline differ.
            DamagedError: as `serve.load`.
        """
        if version != __version__:
            raise InputError(f"bertline is {__version__} here, but {version} where the command runs; use one version")
        bundle.demand(folder)
        if files.sha256(folder / bundle.MANIFEST) != sha256:
            raise InputError(f"{folder}: not the bundle that the command reads; copy that one here")
        self._model = load(folder, min(cores, machine.cores()))
        self._model.prepare()
        return self._model.bundle.notice

    def answer(self, texts: Sequence[Text]) -> list[Answer | NoAnswerError]:
        """Answer texts, in order, each by itself: one that has no answer takes none from the others."""
        return [_outcome(asked) for asked in self._model.submit(texts)]


def _outcome(asked: Future[Answered]) -> Answer | NoAnswerError:
    try:
        return asked.result().answer
    except NoAnswerError as error:
        return error.with_traceback(None)

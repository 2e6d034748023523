"""What a bundle is made from: a finished run, or any Hugging Face classifier with labelled texts to measure it on."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bertline.artifacts import encoder, places, run
from bertline.artifacts.bundle import Source
from bertline.artifacts.errors import InputError
from bertline.artifacts.run import RunFolder
from bertline.tasks import text_classification
from bertline.tasks.text_classification import Example
from bertline.tasks.tokens import Text

METRICS = ("accuracy", "precision", "recall", "f1", "macro_f1")
"""What a drop may be measured in: higher is better, at most 1."""


@dataclass(frozen=True)
class Origin:
    """A classifier that is complete on this machine, and the texts it is held to."""

    kind: Literal["run", "model"]
    place: str
    """As the user named it."""
    name: str
    model: str
    """The place that the run had started from; `place` where there was no run."""
    folder: Path
    """A Hugging Face folder: config.json, weights, tokenizer."""
    config: dict[str, Any]
    labels: tuple[str, ...]
    max_length: int
    metric: str
    examples: list[Example]

    @property
    def texts(self) -> list[Text]:
        """What the examples ask."""
        return [example.texts for example in self.examples]

    @property
    def gold(self) -> list[int]:
        """The index of each example's label."""
        return [self.labels.index(example.label) for example in self.examples]

    @property
    def pairs(self) -> bool:
        """Whether it is pairs of texts that are labelled."""
        return self.examples[0].text_pair is not None

    def source(self, bundle: Path) -> Source:
        """As the manifest of `bundle` tells it."""
        local = Path(self.place).expanduser()
        place = os.path.relpath(local.resolve(), bundle.resolve()) if local.exists() else self.place
        return Source(
            kind=self.kind,
            place=place,
            model=place if self.kind == "model" else self.model,
            weights_sha256=encoder.weights_sha256(self.folder),
        )


def read(place: str, data: Path | None) -> Origin:
    """Read a source and check that it can be exported.

    Args:
        place: a run folder, or a model's place (local folder, pkg://, hub id).
        data: labelled texts (text[, text_pair], label) to measure on; a run has its validation split.

    Raises:
        InputError: an unfinished run, a model that is refused or has no classification head, or no texts.
        DamagedError: best/ is not what the run recorded.
    """
    folder = RunFolder(Path(place).expanduser())
    if folder.summary.exists() or folder.recipe.exists():
        return _run(place, folder, data)
    return _model(place, data)


def _run(place: str, folder: RunFolder, data: Path | None) -> Origin:
    summary = run.verify(folder.path)
    return Origin(
        kind="run",
        place=place,
        name=summary.name,
        model=summary.model,
        folder=folder.best,
        config=encoder.check(folder.best),
        labels=tuple(summary.labels),
        max_length=summary.max_length,
        metric=summary.metric if summary.metric in METRICS else "accuracy",  # a run may go by its loss
        examples=text_classification.read_labelled(data or folder.split("validation"), summary.labels),
    )


def _model(place: str, data: Path | None) -> Origin:
    folder = places.model_folder(place)
    config = encoder.check(folder)
    faults = _head_faults(folder, config)
    if data is None:
        faults.append(f"{place}: a model without a run is measured on texts of yours: add --data FILE (text, label)")
    if data is None or faults:
        raise InputError(*faults)
    labels = _labels(config)
    return Origin(
        kind="model",
        place=place,
        name=place.rstrip("/").rpartition("/")[2],
        model=place,
        folder=folder,
        config=config,
        labels=labels,
        max_length=encoder.max_tokens(config),
        metric="accuracy",
        examples=text_classification.read_labelled(data, labels),
    )


def _head_faults(folder: Path, config: dict[str, Any]) -> list[str]:
    """Why this is not one label out of several; a head that is named but has no weights is found on loading."""
    architectures = config.get("architectures") or ["none"]
    if not any(str(name).endswith("ForSequenceClassification") for name in architectures):
        return [
            f"{folder / 'config.json'}: architectures is {', '.join(map(str, architectures))}, without a head for text "
            "classification; fine-tune the model first: bertline train RECIPE"
        ]
    kind = config.get("problem_type") or "single_label_classification"
    if kind != "single_label_classification" or len(_labels(config)) < 2:
        return [
            f"{folder / 'config.json'}: {len(_labels(config))} label(s), problem_type {kind!r}; "
            "one label out of two or more is what can be exported"
        ]
    return []


def _labels(config: dict[str, Any]) -> tuple[str, ...]:
    """Names for 0, 1, …; transformers writes none where there are the usual two."""
    names = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    return tuple(str(names[index]) for index in sorted(names, key=int))

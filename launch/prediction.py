"""`bertline predict`: texts from the command line or a file, answers to the terminal or a file. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from bertline.artifacts import files
from bertline.artifacts.errors import InputError
from bertline.serve import batch
from bertline.serve.engine import Bundle
from bertline.tasks.task import Answer, Columns
from bertline.tasks.tokens import Text


def predict(folder: Path, texts: Sequence[str], source: Path | None, target: Path | None, as_json: bool) -> None:
    """Answer each text in the order asked.

    Raises:
        InputError: neither texts nor a file, both, an odd number of texts for pairs, or a file that exists already.
    """
    if bool(texts) == (source is not None):
        raise InputError("nothing to answer, or two things at once: give TEXTs or --in FILE")
    if target is not None:
        files.refuse_existing(target)
    bundle = Bundle(folder)
    if bundle.notice:
        click.echo(f"note: {bundle.notice}", err=True)
    engine = bundle.engine()
    inputs = engine.task.settings.inputs
    asked = _texts(texts, inputs)
    if source is not None:
        answers = batch.answers(engine, source, Columns(text_pair="text_pair" if "text_pair" in inputs else None))
    else:
        answers = iter(engine.predict(asked))
    if target is not None:
        with files.new_file(target) as stream:
            stream.writelines(f"{json.dumps(answer, ensure_ascii=False)}\n".encode() for answer in answers)
        return
    for number, answer in enumerate(answers):
        plain = texts and not as_json
        click.echo(_words(answer, asked[number]) if plain else json.dumps(answer, ensure_ascii=False))


def _texts(texts: Sequence[str], inputs: Sequence[str]) -> list[Text]:
    if len(inputs) == 1:
        return [(text, None) for text in texts]
    if len(texts) % 2:
        raise InputError(f"this bundle takes {inputs[0]} and {inputs[1]} in turn: found {len(texts)}, an odd number")
    return list(zip(texts[::2], texts[1::2], strict=True))


def _words(answer: Answer, text: Text) -> str:
    cut = "  (longer than the model reads: part of it was cut off)" if answer.get("truncated") else ""
    return f"{_short(answer)}  {' | '.join(part for part in text if part is not None)}{cut}"


def _short(answer: Answer) -> str:
    """The answer of any task in a few words."""
    if "entities" in answer:
        found = [f"{one['text']} ({one['label']} {one['score']:.3f})" for one in answer["entities"]]
        return ", ".join(found) or "no entities"
    if "answer" in answer:
        return f"{answer['answer'] or 'no answer'}  {answer['score']:.3f}"
    if "value" in answer:
        return f"{answer['value']:.3f}"
    if "labels" in answer:
        return ", ".join(f"{label} {answer['scores'][label]:.3f}" for label in answer["labels"]) or "no label"
    return f"{answer['label']}  {answer['score']:.3f}"

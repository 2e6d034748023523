"""`bertline predict`: answers texts from the command line or a file, on the terminal or into a file. Needs no torch."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bertline.artifacts import files, signature, tables
from bertline.artifacts.errors import InputError, install_advice
from bertline.artifacts.say import Say
from bertline.launch.bulk_progress import BulkProgress
from bertline.serve import bulk, formats, load
from bertline.serve.model import Model
from bertline.tasks.task import Answer
from bertline.tasks.tokens import Text, refuse_lone_surrogates

if TYPE_CHECKING:
    from bertline.serve.cluster.workers import Workers


def predict(
    folder: Path,
    signed: str | None,
    texts: Sequence[str],
    source: Path | None,
    target: Path | None,
    errors: Path | None,
    columns: Mapping[str, str],
    engine: str,
    as_json: bool,
) -> None:
    """Answer each text, or each row of a file, in the given order.

    Args:
        folder: the bundle.
        signed: sha256 of the manifest that the bundle must have; None accepts any.
        texts: the texts, or
        source: the file that has them.
        target: file for the answers; None for stdout.
        errors: file for bad rows; None to stop at the first one.
        columns: the columns of the file by input name, for those that are named differently.
        engine: "local" or "ray".
        as_json: print one JSON object per text, each on a line.

    Raises:
        InputError: neither texts nor a file, or both; an odd number of texts for pairs; an output that exists already;
            the extra [ray] is needed and not installed; or as `bulk.predict`.
        DamagedError: the loaded bundle is not the signed one.
    """
    _check(texts, source, target, errors, columns, engine, as_json)
    if engine == "ray" and source is not None and target is not None:
        # Ray reports dead workers on stdout
        with redirect_stdout(sys.stderr), BulkProgress() as progress, _workers(folder, progress.say) as workers:
            signature.demand_same(folder, signed, workers.sha256)
            bulk.predict(workers, source, target, errors, progress.say, progress.see, columns)
        return
    with load(folder) as model:
        signature.demand_same(folder, signed, model.sha256)
        if model.bundle.notice:
            click.echo(f"note: {model.bundle.notice}", err=True)
        if source is not None and target is not None:
            model.prepare()
            with BulkProgress() as progress:
                bulk.predict(model, source, target, errors, progress.say, progress.see, columns)
        elif source is not None:
            model.prepare()
            for answer in _answers(model, source, columns):
                click.echo(json.dumps(answer, ensure_ascii=False, allow_nan=False))
        else:
            _show(model, texts, target, as_json)


def _check(
    texts: Sequence[str],
    source: Path | None,
    target: Path | None,
    errors: Path | None,
    columns: Mapping[str, str],
    engine: str,
    as_json: bool,
) -> None:
    """Refuse options that contradict each other and outputs that cannot be written, before anything is loaded."""
    if as_json and target is not None:
        raise InputError("--json prints on stdout what --out writes to a file: give one or the other")
    if columns and source is None:
        raise InputError("--column is for files: give --in FILE with it")
    if bool(texts) == (source is not None):
        raise InputError("give either TEXTs or --in FILE")
    if engine == "ray" and (source is None or target is None):
        raise InputError("--engine ray is for files: give --in FILE and --out FILE with it")
    if errors is not None and (source is None or target is None):
        raise InputError("--errors is for files: give --in FILE and --out FILE with it")
    if errors is not None and target is not None and errors.absolute() == target.absolute():
        raise InputError(f"{errors}: named by both --out and --errors; name two files")
    if target is not None:
        files.refuse_existing(target)
        formats.check(target)


def _workers(folder: Path, say: Say) -> Workers:
    """The workers of a Ray cluster; Ray is imported only here.

    Raises:
        InputError: the extra [ray] is not installed, or as `Workers`.
    """
    try:
        from bertline.serve.cluster.workers import Workers
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is not installed; {install_advice('ray')}") from None
    return Workers(folder, say)


def _answers(model: Model, source: Path, columns: Mapping[str, str]) -> Iterator[Answer]:
    """The answers to a file's rows, for a pipe: unlike `bulk.predict` not resumable, and ended by the first bad row."""
    with tables.opened(source) as raw:
        for outcome in bulk.answers(model, bulk.rows(model.task, source, raw, columns), columns):
            if isinstance(outcome.answer, InputError):
                raise outcome.answer
            yield {"row": outcome.row, **outcome.answer}


def _show(model: Model, texts: Sequence[str], target: Path | None, as_json: bool) -> None:
    """Answer one text at a time on all cores: for a few texts, loading the model for parallel use would take longer."""
    asked = _texts(texts, model.manifest.inputs)
    answers = [model.submit([text])[0].result().answer for text in asked]
    lines = [json.dumps(answer, ensure_ascii=False, allow_nan=False) for answer in answers]
    if target is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=files.temporary_prefix(target)) as folder:
            files.write_text(written := Path(folder, "answers.jsonl"), "".join(f"{line}\n" for line in lines))
            files.publish(formats.made(written, target), target)
        return
    for text, answer, line in zip(asked, answers, lines, strict=True):
        click.echo(line if as_json else _words(answer, text))


def _texts(texts: Sequence[str], inputs: Sequence[str]) -> list[Text]:
    for number, text in enumerate(texts, start=1):
        refuse_lone_surrogates(text, f"text {number}")
    if len(inputs) == 1:
        return [(text, None) for text in texts]
    if len(texts) % 2:
        raise InputError(f"this bundle takes {inputs[0]} and {inputs[1]} in turn: found {len(texts)}, an odd number")
    return list(zip(texts[::2], texts[1::2], strict=True))


def _words(answer: Answer, text: Text) -> str:
    cut = "  (longer than the model reads: part of it was ignored)" if answer.get("truncated") else ""
    return f"{_short(answer)}  {' | '.join(part for part in text if part is not None)}{cut}"


def _short(answer: Answer) -> str:
    """A short form of an answer, for any task."""
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

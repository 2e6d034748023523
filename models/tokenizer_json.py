"""A model's tokenizer.json: copied, or generated if it is missing or transformers reads texts differently.

Older models have only vocab.txt. And a model was trained on what transformers reads, which also follows
tokenizer_config.json and the defaults of the tokenizer's class, whatever tokenizer.json says.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tokenizers
import transformers

from bertline.artifacts import encoder
from bertline.artifacts.errors import InputError


def write(source: Path, folder: Path) -> None:
    """Write a tokenizer's files into a folder, tokenizer.json among them.

    tokenizer.json is generated if the source has none, or if transformers reads it differently.

    Args:
        source: the model folder, which has passed `encoder.check`.
        folder: the target folder.

    Raises:
        InputError: there is no tokenizer, or none that has a tokenizer.json.
    """
    tokenizer = _as_transformers_reads(source)
    if _is_as_written(tokenizer, source / "tokenizer.json"):
        encoder.copy_tokenizer(source, folder)
    else:
        _save(tokenizer, source, folder)


@contextmanager
def temporary(source: Path) -> Iterator[Path]:
    """Yield a temporary folder with the tokenizer's files, for use without a run. See `write`."""
    with tempfile.TemporaryDirectory(prefix="bertline-tokenizer-") as name:
        write(source, Path(name))
        yield Path(name)


def make_beside_config(model: Path, folder: Path) -> Path:
    """A folder with a model's config.json and tokenizer files, for a `System`.

    Returns:
        The model's own folder if it is suitable, so that messages name what the user has; else `folder`, newly created.

    Raises:
        InputError: see `write`.
    """
    tokenizer = _as_transformers_reads(model)
    if _is_as_written(tokenizer, model / "tokenizer.json"):
        return model
    folder.mkdir()
    shutil.copyfile(model / "config.json", folder / "config.json")
    _save(tokenizer, model, folder)
    return folder


def _as_transformers_reads(source: Path) -> Any:
    try:
        return transformers.AutoTokenizer.from_pretrained(
            source, use_fast=True, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # the tokenizers library raises bare Exception
        found = "no tokenizer.json, and none" if not (source / "tokenizer.json").is_file() else "no tokenizer"
        raise InputError(f"{source}: {found} can be made of what is there ({error})") from error


def _save(tokenizer: Any, source: Path, folder: Path) -> None:
    try:
        tokenizer.save_pretrained(folder)
    except Exception as error:  # from the compiled tokenizers library: a full disk is not an OSError there
        raise InputError(f"{folder}: the tokenizer could not be written ({error}); make room") from error
    if not (folder / "tokenizer.json").is_file():
        raise InputError(f"{source}: its tokenizer has no fast version, so no tokenizer.json can be made")


def _is_as_written(tokenizer: Any, path: Path) -> bool:
    """Whether transformers reads texts as a tokenizer.json says, apart from truncation and padding."""
    if not (path.is_file() and tokenizer.is_fast):
        return path.is_file()
    both = tokenizer.backend_tokenizer, tokenizers.Tokenizer.from_file(str(path))
    for one in both:
        one.no_truncation()
        one.no_padding()
    return bool(both[0].to_str() == both[1].to_str())

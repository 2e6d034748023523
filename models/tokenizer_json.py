"""A model's tokenizer.json, by which texts are read everywhere: copied, or made where the model has none that will do.

Older models have vocab.txt alone. And a model knows what transformers reads, which goes by tokenizer_config.json and by
the defaults of the tokenizer's class as well, whatever tokenizer.json says.
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
    """Put a tokenizer's files into a folder, tokenizer.json among them.

    It is made where the source has none, or one that transformers reads in another way.

    Args:
        source: of the model; `encoder.check` has passed it.
        folder: for the files.

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
    """A temporary folder with the tokenizer's files, for who has no run. See `write`."""
    with tempfile.TemporaryDirectory(prefix="bertline-tokenizer-") as name:
        write(source, Path(name))
        yield Path(name)


def make_beside_config(model: Path, folder: Path) -> Path:
    """A folder of a model's config.json and its tokenizer's files, which a `System` reads texts by.

    Returns:
        The model's own, where that will do: messages then name what the user has. Else `folder`, which is made.

    Raises:
        InputError: as `write`.
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
    except Exception as error:  # of tokenizers, which is compiled: a full disk is no OSError there
        raise InputError(f"{folder}: the tokenizer could not be written ({error}); make room") from error
    if not (folder / "tokenizer.json").is_file():
        raise InputError(f"{source}: its tokenizer has no fast version, so no tokenizer.json can be made")


def _is_as_written(tokenizer: Any, path: Path) -> bool:
    """Whether transformers reads texts as a tokenizer.json says, but for their length and padding."""
    if not (path.is_file() and tokenizer.is_fast):
        return path.is_file()
    both = tokenizer.backend_tokenizer, tokenizers.Tokenizer.from_file(str(path))
    for one in both:
        one.no_truncation()
        one.no_padding()
    return bool(both[0].to_str() == both[1].to_str())

"""A model folder is data, not code: what is checked before any library opens it.

config.json is read as plain JSON first. A key that makes transformers import or download code is refused
(CVE-2026-4372 among them), the `kernels` package that would run such code must not be installed, and weights are
safetensors, complete.
"""

import hashlib
import importlib.util
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from bertline.artifacts import files
from bertline.artifacts.errors import InputError

CODE_KEYS = frozenset(
    {"auto_map", "custom_pipelines", "_attn_implementation_internal", "trust_remote_code", "use_kernels"}
)
"""Keys of config.json and tokenizer_config.json that name code to import or to download."""
ATTENTION_KEYS = frozenset({"_attn_implementation", "attn_implementation"})
ATTENTION = (None, "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
"""What an attention key may say; anything else is looked up on a hub."""
LAYERS = ("num_hidden_layers", "n_layers")
"""What config.json calls the number of layers."""
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt",
    "vocab.json", "merges.txt", "sentencepiece.bpe.model", "sentencepiece.model", "spiece.model", "spm.model",
    "tokenizer.model",
)  # fmt: skip
"""What a tokenizer may consist of."""
PADDING_OFFSET = (
    "camembert", "data2vec-text", "esm", "ibert", "lilt", "longformer", "luke", "mpnet", "roberta",
    "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
)  # fmt: skip
"""Model types whose first position is padding_idx + 1, so that they hold fewer tokens than positions."""


def check(folder: Path, weights: bool = True) -> dict[str, Any]:
    """Refuse a model folder that could run code or is incomplete; return its config.json.

    Args:
        folder: a Hugging Face model folder.
        weights: whether it must hold complete safetensors weights (a bundle holds none).

    Raises:
        InputError: every fault found, each with file and key.
    """
    faults = list(_kernels_fault())
    config = _object(folder / "config.json")
    if not isinstance(config.get("model_type"), str):
        faults.append(
            f"{folder / 'config.json'}: model_type is missing; it tells what encoder this is, bert for example"
        )
    faults += _number_faults(folder / "config.json", config)
    faults += _label_faults(folder / "config.json", config)
    faults += _code_faults(folder / "config.json", config)
    for name in ("tokenizer_config.json", "processor_config.json"):
        if (folder / name).is_file():
            faults += _code_faults(folder / name, _object(folder / name))
    if weights:
        faults += _weight_faults(folder, config)
    if faults:
        raise InputError(*faults)
    return config


def max_tokens(config: dict[str, Any]) -> int:
    """The longest input, in tokens with special ones, that the model's positions hold."""
    positions = int(config.get("max_position_embeddings", 512))
    if config.get("model_type") in PADDING_OFFSET:
        padding = config.get("pad_token_id")
        return positions - (1 if padding is None else int(padding)) - 1
    return positions


def layers(config: dict[str, Any]) -> int:
    """How many layers the encoder has."""
    return next((int(config[key]) for key in LAYERS if config.get(key)), 0)


def label_names(config: dict[str, Any]) -> list[str]:
    """Names for the head's outputs 0, 1, …; transformers writes none where there are the usual two."""
    names = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    return [str(names[index]) for index in sorted(names, key=int)]


def architectures(config: dict[str, Any]) -> list[str]:
    """The classes of transformers that config.json names; the model is of the first."""
    named = config.get("architectures") or []
    return [str(name) for name in (named if isinstance(named, list) else [named])]


def pickled(names: Iterable[str]) -> list[str]:
    """Those files of a model that hold its weights as transformers wrote them before safetensors."""
    return sorted(name for name in names if fnmatch(name, "pytorch_model*.bin"))


def without_safetensors(names: Sequence[str], config: dict[str, Any], called: str) -> str:
    """What a person is told of a model that has no safetensors, and what to do.

    Args:
        names: of its files.
        config: of it.
        called: what from_pretrained takes to find it, as Python.
    """
    graphs = sorted(name for name in names if name.endswith(".onnx"))
    if pickles := pickled(names):
        (kind, *_) = architectures(config) or ["AutoModel"]
        return (
            f"found {', '.join(pickles)}, and weights load from safetensors alone; transformers converts them: "
            f"{kind}.from_pretrained({called}).save_pretrained(FOLDER), and AutoTokenizer likewise; then name FOLDER"
        )
    if graphs:
        return f"found {', '.join(graphs)}, and ONNX is no source; name the PyTorch model that it was made from"
    return "no weights among its files"


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that hold the model: model.safetensors, or the shards its index names.

    Raises:
        InputError: the index names no files, or some that are not beside it.
    """
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").exists() or not index.exists():
        return [folder / "model.safetensors"]
    tensors = _object(index).get("weight_map")
    if not (isinstance(tensors, dict) and tensors and all(_is_file_name(name) for name in tensors.values())):
        raise InputError(f"{index}: weight_map: found {tensors!r:.60}; expected a file beside it for each tensor")
    return [folder / name for name in sorted(set(tensors.values()))]


def weights_sha256(folder: Path) -> str:
    """The sha256 of model.safetensors; of the shards' hashes, joined, where there are several."""
    hashes = [files.sha256(path) for path in weight_files(folder)]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def tokenizer_files(folder: Path) -> list[Path]:
    """What a folder has of a tokenizer."""
    return [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy the files of a tokenizer, and nothing else."""
    for path in tokenizer_files(source):
        shutil.copyfile(path, folder / path.name)


def _is_file_name(value: object) -> bool:
    return isinstance(value, str) and value == Path(value).name


def _object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: missing; {_no_model(path.parent)}") from None
    except (OSError, ValueError, RecursionError) as error:  # the last of what is nested thousands of times
        raise InputError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds a {type(value).__name__}, not an object")
    return value


def _no_model(folder: Path) -> str:
    """What a person is told of a folder without a config.json, by what is there."""
    if (folder / "adapter_config.json").is_file():
        merge = "merge_and_unload() and save_pretrained(FOLDER), the tokenizer likewise"
        return f"the folder holds an adapter of PEFT; make a whole model of it there, by {merge}, and name FOLDER"
    if checkpoints := sorted(folder.glob("checkpoint-*/"), key=lambda path: (len(path.name), path.name)):
        names = ", ".join(path.name for path in checkpoints)
        return f"the folder holds {names}, as the Trainer makes them; name one: {checkpoints[-1]}"
    return "a Hugging Face model folder holds one"


def _kernels_fault() -> Iterator[str]:
    if importlib.util.find_spec("kernels") is not None:
        yield (
            "the package 'kernels' is installed: with it a model's config.json can make transformers download and run "
            "code (CVE-2026-4372); pip uninstall kernels"
        )


def _number_faults(path: Path, config: dict[str, Any]) -> Iterator[str]:
    for key in ("max_position_embeddings", "pad_token_id", *LAYERS):
        value = config.get(key, 0)
        if type(value) is not int and (key, value) != ("pad_token_id", None):
            yield f"{path}: {key}: found {value!r:.60}; expected a whole number"


def _label_faults(path: Path, config: dict[str, Any]) -> Iterator[str]:
    names = config.get("id2label") or {}
    if not isinstance(names, dict) or set(names) != {str(index) for index in range(len(names))}:
        yield f'{path}: id2label: found {names!r:.60}; expected a name for each of "0", "1", …'


def _code_faults(path: Path, config: dict[str, Any]) -> Iterator[str]:
    for key, name, value in _walk(config):
        if name in CODE_KEYS or (name in ATTENTION_KEYS and value not in ATTENTION):
            yield f"{path}: key {key!r} names code to run ({value!r:.80}); a model folder is data: remove the key"


def _walk(value: Any, prefix: str = "") -> Iterator[tuple[str, str, Any]]:
    """Every key of nested objects and lists: (dotted key, last part, value)."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        yield f"{prefix}{name}", str(name), inner
        yield from _walk(inner, f"{prefix}{name}.")


def _weight_faults(folder: Path, config: dict[str, Any]) -> Iterator[str]:
    from safetensors import SafetensorError, safe_open  # it is not there where bundles only answer

    for path in weight_files(folder):
        if not path.is_file():
            names = [file.relative_to(folder).as_posix() for file in folder.rglob("*")]
            other = not any(folder.glob("*.safetensors"))  # else a shard is gone
            told = f"; {without_safetensors(names, config, repr(str(folder)))}" if other else ""
            yield f"{path}: missing{told}"
            continue
        try:
            with path.open("rb"), safe_open(path, framework="numpy"):  # which says of any file that it is not there
                pass
        except SafetensorError as error:
            yield f"{path}: no safetensors file, half-written or damaged ({error!s:.100})"

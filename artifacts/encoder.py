"""Checks of a model folder before any library opens it: a model is data, not code.

config.json is first read as plain JSON. Keys that make transformers import or download code (CVE-2026-4372 among them)
are rejected, the `kernels` package, which would run such code, must not be installed, and weights must be complete
safetensors files.
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
"""Allowed values of an attention key; transformers would look up anything else on a hub."""
LAYERS = ("num_hidden_layers", "n_layers")
"""Names of the number of layers in config.json."""
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt",
    "vocab.json", "merges.txt", "sentencepiece.bpe.model", "sentencepiece.model", "spiece.model", "spm.model",
    "tokenizer.model",
)  # fmt: skip
"""Files that a tokenizer may consist of."""
PADDING_OFFSET = (
    "camembert", "data2vec-text", "esm", "ibert", "lilt", "longformer", "luke", "mpnet", "roberta",
    "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
)  # fmt: skip
"""Model types whose first position is padding_idx + 1, so that they hold fewer tokens than positions."""


def check(folder: Path, weights: bool = True) -> dict[str, Any]:
    """Reject a model folder that could run code or is incomplete; return its config.json.

    Args:
        folder: a Hugging Face model folder.
        weights: whether it must hold complete safetensors weights (a bundle holds none).

    Raises:
        InputError: lists every fault found, with file and key.
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
    """The longest input that the model's positions hold, in tokens, special tokens included."""
    positions = int(config.get("max_position_embeddings", 512))
    if config.get("model_type") in PADDING_OFFSET:
        padding = config.get("pad_token_id")
        return positions - (1 if padding is None else int(padding)) - 1
    return positions


def layers(config: dict[str, Any]) -> int:
    """The number of layers of the encoder."""
    return next((int(config[key]) for key in LAYERS if config.get(key)), 0)


def label_names(config: dict[str, Any]) -> list[str]:
    """Names of the head's outputs 0, 1, …; without any, there are `num_labels`, by default two, as in transformers."""
    names = config.get("id2label") or {str(index): f"LABEL_{index}" for index in range(config.get("num_labels", 2))}
    return [str(names[index]) for index in sorted(names, key=int)]


def architectures(config: dict[str, Any]) -> list[str]:
    """The transformers classes that config.json names; the first is the model's."""
    named = config.get("architectures") or []
    return [str(name) for name in (named if isinstance(named, list) else [named])]


def pickled(names: Iterable[str]) -> list[str]:
    """The files that hold a model's weights as pickles, which transformers wrote before safetensors."""
    return sorted(name for name in names if fnmatch(name, "pytorch_model*.bin"))


def without_safetensors(names: Sequence[str], config: dict[str, Any], called: str) -> str:
    """The message for a model without safetensors, with advice.

    Args:
        names: the model's files.
        config: the content of its config.json.
        called: the arguments that from_pretrained needs to find it, as Python.
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
        InputError: the index names no files, or files outside its folder.
    """
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").exists() or not index.exists():
        return [folder / "model.safetensors"]
    tensors = _object(index).get("weight_map")
    if not (isinstance(tensors, dict) and tensors and all(_is_file_name(name) for name in tensors.values())):
        raise InputError(f"{index}: weight_map: found {tensors!r:.60}; expected a file beside it for each tensor")
    return [folder / name for name in sorted(set(tensors.values()))]


def weights_sha256(folder: Path) -> str:
    """The sha256 of model.safetensors or, for several shards, of their concatenated hashes."""
    hashes = [files.sha256(path) for path in weight_files(folder)]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def tokenizer_files(folder: Path) -> list[Path]:
    """The tokenizer files that a folder has."""
    return [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy the tokenizer files, and nothing else."""
    for path in tokenizer_files(source):
        shutil.copyfile(path, folder / path.name)


def _is_file_name(value: object) -> bool:
    return isinstance(value, str) and value == Path(value).name


def _object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: missing; {_no_model(path.parent)}") from None
    except (OSError, ValueError, RecursionError) as error:  # RecursionError: nested thousands of levels deep
        raise InputError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds a {type(value).__name__}, not an object")
    return value


def _no_model(folder: Path) -> str:
    """Advice for a folder without a config.json, depending on its content."""
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
    for key in ("max_position_embeddings", "num_labels", "pad_token_id", *LAYERS):
        value = config.get(key, 0)
        if type(value) is not int and (key, value) != ("pad_token_id", None):
            yield f"{path}: {key}: found {value!r:.60}; expected a whole number"


def _label_faults(path: Path, config: dict[str, Any]) -> Iterator[str]:
    names = config.get("id2label") or {}
    if not isinstance(names, dict) or set(names) != {str(index) for index in range(len(names))}:
        yield f'{path}: id2label: found {names!r:.60}; expected a name for each of "0", "1", …'


def _code_faults(path: Path, config: dict[str, Any]) -> Iterator[str]:
    for key, name, value in _walk(config):
        if (name in CODE_KEYS and value) or (name in ATTENTION_KEYS and value not in ATTENTION):
            yield f"{path}: key {key!r} names code to run ({value!r:.80}); a model folder is data: remove the key"


def _walk(value: Any, prefix: str = "") -> Iterator[tuple[str, str, Any]]:
    """Yield (dotted key, last part, value) for every key of nested objects and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        yield f"{prefix}{name}", str(name), inner
        yield from _walk(inner, f"{prefix}{name}.")


def _weight_faults(folder: Path, config: dict[str, Any]) -> Iterator[str]:
    from safetensors import SafetensorError, safe_open  # not installed where bundles are only served

    for path in weight_files(folder):
        if not path.is_file():
            names = [file.relative_to(folder).as_posix() for file in folder.rglob("*")]
            other = not any(folder.glob("*.safetensors"))  # else only a shard is missing
            told = f"; {without_safetensors(names, config, repr(str(folder)))}" if other else ""
            yield f"{path}: missing{told}"
            continue
        try:
            with (
                path.open("rb"),
                safe_open(path, framework="numpy"),
            ):  # safe_open alone calls any OSError a missing file
                pass
        except SafetensorError as error:
            yield f"{path}: no safetensors file, half-written or damaged ({error!s:.100})"

"""Tiny encoders made on the spot, so that a test takes seconds and needs no download."""

import errno
import json
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from string import printable, whitespace

import pytest

from bertline.artifacts.task import TaskSettings, Tokens

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin while they wait take the cores of other tests
os.environ.setdefault("OMP_NUM_THREADS", "1")  # with a tiny model, two of them wait for each other most of the time
WORDS = {
    "positive": ("great", "good", "lovely", "wonderful", "enjoyed", "brilliant", "moving", "funny", "superb"),
    "negative": ("bad", "awful", "boring", "terrible", "wasted", "dull", "stupid", "ugly", "worst"),
}
FILLERS = ("the", "film", "a", "movie", "was", "and", "it", "with", "plot", "actors", "of", "story", "in", "this", "I")


def pytest_configure(config: pytest.Config) -> None:
    """Keep all tests but those for GPUs on the CPU: DeepSpeed chooses once for a process, as it is imported."""
    if config.option.markexpr != "gpu":
        os.environ["DS_ACCELERATOR"] = "cpu"


@pytest.fixture(scope="module", autouse=True)
def torchs_own_linear() -> Iterator[None]:
    """What follows ZeRO 3 in a process would export other bytes: it leaves a linear layer of its own in torch."""
    yield
    if "deepspeed" in sys.modules:
        import torch

        torch.nn.functional.linear = torch._C._nn.linear


@pytest.fixture
def nfs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on NFS, a file that this process has open or mapped is not removed but renamed, so that its folder stays.

    NFS removes it when it is closed; here it remains.
    """
    unlink = os.unlink

    def removed(path: str | Path, *, dir_fd: int | None = None) -> None:
        whole = path if dir_fd is None else Path(os.readlink(f"/proc/self/fd/{dir_fd}"), path)
        if not is_used(Path(whole).absolute()):
            unlink(path, dir_fd=dir_fd)
        elif Path(path).name.startswith(".nfs"):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))
        else:
            inode = os.stat(path, dir_fd=dir_fd).st_ino
            os.rename(path, Path(path).with_name(f".nfs{inode}"), src_dir_fd=dir_fd, dst_dir_fd=dir_fd)

    def is_used(path: Path) -> bool:
        if any(line.endswith(f" {path}") for line in Path("/proc/self/maps").read_text().splitlines()):
            return True
        opened = []
        for handle in os.listdir("/proc/self/fd"):
            with suppress(OSError):  # of the listing itself
                opened.append(os.readlink(f"/proc/self/fd/{handle}"))
        return str(path) in opened

    monkeypatch.setattr(os, "unlink", removed)


def make_texts(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Labelled texts of 4 to 40 words that a tiny model can learn to tell apart."""
    chance = random.Random(seed)
    rows = []
    for index in range(count):
        label = ("negative", "positive")[index % 2]
        words = chance.choices(FILLERS, k=chance.randint(3, 30)) + chance.choices(WORDS[label], k=chance.randint(1, 10))
        chance.shuffle(words)
        rows.append({"text": f"{' '.join(words)} {index}", "label": label})
    return rows


def make_model(folder: Path, labels: tuple[str, ...] | None = None, layers: int = 2, hidden: int = 32) -> Path:
    """A random BERT with a WordPiece vocabulary of the texts above, as a Hugging Face folder.

    Args:
        folder: made if need be.
        labels: with names it has a classification head, without it is a bare encoder.
        layers: of them.
        hidden: size, four heads.
    """
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    # written down, since a vocabulary that is trained is another one each time, and so is what the model learns
    words = sorted({word for row in make_texts(500) for word in row["text"].lower().split() if word.isalpha()})
    pieces = [mark + letter for mark in ("", "##") for letter in sorted({*printable.lower()} - {*whitespace})]
    vocabulary = dict.fromkeys([*special, *pieces, *words, *(f"##{word[1:]}" for word in words)])
    tokenizer = Tokenizer(models.WordPiece({word: index for index, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip
    torch.manual_seed(0)
    names = (
        {}
        if labels is None
        else {"id2label": dict(enumerate(labels)), "label2id": {n: i for i, n in enumerate(labels)}}
    )
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=4,
        intermediate_size=2 * hidden, max_position_embeddings=64, **names,
    )  # fmt: skip
    model = BertModel(config) if labels is None else BertForSequenceClassification(config)
    model.save_pretrained(folder, safe_serialization=True)
    fast.save_pretrained(folder)
    return folder


def with_vocabulary_alone(model: Path, folder: Path) -> Path:
    """A copy of a model of `make_model` with the tokenizer that older BERTs have: vocab.txt, and nothing else."""
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(model / name, folder)
    words = json.loads((model / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in sorted(words, key=words.__getitem__)))
    return folder


def classifier(max_length: int = 32, labels: Sequence[str] = ("negative", "positive")) -> TaskSettings:
    """The settings of a text classifier."""
    return TaskSettings(
        task="text-classification", problem_type="single_label_classification", inputs=["text"], labels=list(labels),
        tokens=Tokens(max_length=max_length),
    )  # fmt: skip


@pytest.fixture
def tiny_model(tmp_path: Path) -> Path:
    """A bare encoder: 2 layers, 32 hidden, 64 positions."""
    return make_model(tmp_path / "tiny")


@pytest.fixture
def tiny_classifier(tmp_path: Path) -> Path:
    """The same with a head for negative and positive."""
    return make_model(tmp_path / "classifier", ("negative", "positive"))


@pytest.fixture
def texts() -> Callable[[int, int], list[dict[str, str]]]:
    """`make_texts`."""
    return make_texts


@pytest.fixture(scope="session")
def rank() -> Iterator[None]:
    """This process as the only rank of its runs."""
    import torch

    from bertline.train import ranks

    before = dict(os.environ)
    ranks.start()
    torch.set_num_threads(1)  # on a busy machine threads that wait for each other cost seconds a step
    yield
    ranks.stop()
    os.environ.clear()
    os.environ.update(before)

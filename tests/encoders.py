"""Tiny random instances of every encoder that is promised, each with a tokenizer of the kind that it really has."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
import torch
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXTS = [
    "The quick brown fox jumps over the lazy dog near Berlin, Paris and New York.",
    "Anna Müller works for Siemens in München; O'Brien doesn't.",
    "Great film! Terrible plot... 10/10 would watch again, said @anna on 3.5.2021 #movies",
    "Der schnelle braune Fuchs springt über den faulen Hund.",
    "漢字 and emoji 👩‍👩‍👧 and שלום are words too",
] * 20
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
POSITIONS = 64
CLASSES = {"wordpiece-distilbert": "DistilBertTokenizerFast", "wordpiece-mpnet": "MPNetTokenizerFast"}
"""By kind, tokenizers of a class of their own: they give types to a pair, and the model takes none."""


class Encoder(NamedTuple):
    """A family: what its configuration is called, what it is given, and which tokenizer belongs to it."""

    config: str
    tokenizer: str
    settings: dict[str, Any]


ENCODERS = {
    "bert": Encoder("BertConfig", "wordpiece", SMALL),
    "bert-cased": Encoder("BertConfig", "wordpiece-cased", SMALL),
    "distilbert": Encoder(
        "DistilBertConfig", "wordpiece-distilbert", {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
    ),
    "roberta": Encoder("RobertaConfig", "bpe", {**SMALL, "type_vocab_size": 1}),
    "roberta-wordpiece": Encoder("RobertaConfig", "wordpiece", {**SMALL, "type_vocab_size": 1}),
    "xlm-roberta": Encoder("XLMRobertaConfig", "unigram", {**SMALL, "type_vocab_size": 1}),
    "albert": Encoder("AlbertConfig", "unigram-albert", {**SMALL, "embedding_size": 16}),
    "electra": Encoder("ElectraConfig", "wordpiece", {**SMALL, "embedding_size": 16}),
    "mpnet": Encoder("MPNetConfig", "wordpiece-mpnet", SMALL),
    "mobilebert": Encoder(
        "MobileBertConfig", "wordpiece", {**SMALL, "embedding_size": 16, "intra_bottleneck_size": 16,
                                          "true_hidden_size": 16, "num_feedforward_networks": 2},
    ),
    "deberta": Encoder(
        "DebertaConfig", "bpe-deberta", {**SMALL, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
    ),
    "deberta-v2": Encoder(
        "DebertaV2Config", "unigram-albert",
        {**SMALL, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16,
         "share_att_key": True, "norm_rel_ebd": "layer_norm", "max_relative_positions": -1, "type_vocab_size": 0,
         "position_biased_input": False},
    ),
    "modernbert": Encoder(
        "ModernBertConfig", "bpe-modernbert", {**SMALL, "local_attention": 16, "global_attn_every_n_layers": 2}
    ),
}  # fmt: skip


def make(name: str, folder: Path) -> Path:
    """The bare encoder `name` with its tokenizer, as a Hugging Face folder."""
    family = ENCODERS[name]
    tokenizer = make_tokenizer(family.tokenizer)
    tokenizer.save_pretrained(folder)
    offset = tokenizer.pad_token_id + 1 if "roberta" in name else 0
    config = getattr(transformers, family.config)(
        **family.settings, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id,
        cls_token_id=tokenizer.cls_token_id, sep_token_id=tokenizer.sep_token_id, bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id, max_position_embeddings=POSITIONS + offset,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.AutoModel.from_config(config).save_pretrained(folder, safe_serialization=True)
    return folder


def make_tokenizer(kind: str) -> Any:
    """A fast tokenizer trained on TEXTS."""
    model, _, variant = kind.partition("-")
    cls, sep, pad, unknown, mask = (
        ("<s>", "</s>", "<pad>", "<unk>", "<mask>")
        if kind in ("bpe", "unigram", "wordpiece-mpnet")
        else ("[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]")
    )
    made = {"wordpiece": _wordpiece, "bpe": _bpe, "unigram": _unigram}[model]
    tokenizer = made([cls, pad, sep, unknown, mask], variant)
    ids = {token: tokenizer.token_to_id(token) for token in (cls, sep)}
    doubled = f" {sep}" if kind in ("bpe", "unigram", "wordpiece-mpnet") else ""
    types = kind in CLASSES or (not doubled and kind != "bpe-modernbert")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep}{doubled} $B:1 {sep}:1" if types else f"{cls} $A {sep}{doubled} $B:0 {sep}:0",
        special_tokens=list(ids.items()),
    )
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if types and kind not in CLASSES else [])]
    return getattr(transformers, CLASSES.get(kind, "PreTrainedTokenizerFast"))(
        tokenizer_object=tokenizer, cls_token=cls, sep_token=sep, pad_token=pad, unk_token=unknown, mask_token=mask,
        model_input_names=names,
    )  # fmt: skip


def _wordpiece(special: Sequence[str], variant: str) -> Any:
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token=special[3]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=variant != "cased")
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return _train(tokenizer, trainers.WordPieceTrainer(vocab_size=400, special_tokens=list(special)))


def _bpe(special: Sequence[str], variant: str) -> Any:
    if variant == "suffix":
        tokenizer = tokenizers.Tokenizer(models.BPE(unk_token=special[3], end_of_word_suffix="</w>"))
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        return _train(
            tokenizer, trainers.BpeTrainer(vocab_size=500, special_tokens=list(special), end_of_word_suffix="</w>")
        )
    tokenizer = tokenizers.Tokenizer(models.BPE())
    if variant == "modernbert":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return _train(
        tokenizer, trainers.BpeTrainer(vocab_size=500, special_tokens=list(special), initial_alphabet=alphabet)
    )


def _unigram(special: Sequence[str], variant: str) -> Any:
    tokenizer = tokenizers.Tokenizer(models.Unigram())
    steps: list[Any] = [normalizers.NFKC()]
    if variant == "albert":
        steps += [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return _train(
        tokenizer, trainers.UnigramTrainer(vocab_size=300, special_tokens=list(special), unk_token=special[3])
    )


def _train(tokenizer: Any, trainer: Any) -> Any:
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


Maker = Callable[[str, Path], Path]

"""Entities from tags, words and sub-words: seqeval counts, and tokenizers of each kind read the same words."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.metrics.sequence_labeling import get_entities
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from bertline.artifacts.errors import InputError
from bertline.artifacts.task import TaskSettings, Tokens
from bertline.tasks.task import IGNORED, Columns, Example, Output
from bertline.tasks.token_classification import TokenClassification, first_tokens, spans
from bertline.tasks.tokens import Encoded
from bertline.tasks.words import words

TYPES = ("LOC", "ORG", "PER")
TEXT = (
    "Mr. O'Brien  of AT&T flew (first class) to New York-Newark, paid $3.50 and met Siobhán O'Shaughnessy-Smith there."
)
KINDS = ("wordpiece", "byte-level", "byte-level trimmed", "unigram")


def make_task(max_length: int = 256, stride: int = 0, types: Sequence[str] = TYPES) -> TokenClassification:
    labels = ["O", *(f"{prefix}-{label}" for label in types for prefix in "BI")]
    tokens = Tokens(max_length=max_length, stride=stride, long="windows")
    return TokenClassification(TaskSettings(task="token-classification", inputs=["text"], labels=labels, tokens=tokens))


def make_tokenizer(folder: Path, kind: str) -> Path:
    """A tokenizer of few sub-words, as BERT, RoBERTa or XLM-R has it; `kind` is one of KINDS."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    template = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    texts = [TEXT, "a film was made of the story in this place", "Mr. and Mrs. Smith went to New York"] * 10
    trained: Any
    if kind == "wordpiece":
        made = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
        made.normalizer = normalizers.BertNormalizer(lowercase=True)
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trained = trainers.WordPieceTrainer(vocab_size=120, special_tokens=special, show_progress=False)
        made.post_processor = template
    elif kind == "unigram":
        made = tokenizers.Tokenizer(models.Unigram())
        made.normalizer = normalizers.NFKC()
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        made.decoder = decoders.Metaspace()
        trained = trainers.UnigramTrainer(vocab_size=90, special_tokens=special, unk_token="[UNK]", show_progress=False)
        made.post_processor = template
    else:
        made = tokenizers.Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space="trimmed" in kind)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trained = trainers.BpeTrainer(
            vocab_size=330, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
        offsets = processors.ByteLevel(trim_offsets="trimmed" in kind)
        made.post_processor = processors.Sequence([offsets, template])
    made.train_from_iterator(texts, trained)
    folder.mkdir(exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    return folder


def make_example(text: str, *entities: tuple[str, str]) -> Example:
    """Entities are given as (what stands in the text once, label), in order."""
    gold = [
        {"start": text.index(part), "end": text.index(part) + len(part), "label": label} for part, label in entities
    ]
    return Example(text, None, gold)


def by_id(task: TokenClassification, window: Encoded, seed: int = 0) -> Output:
    """What a model gives that sees each token alone."""
    table = np.random.default_rng(seed).normal(size=(1000, len(task.labels))).astype(np.float32)
    return np.asarray(table[window.input_ids], np.float32)


def as_told(task: TokenClassification, example: Example, window: Encoded) -> Output:
    """What a model gives that has learnt its targets; elsewhere it is sure of nonsense."""
    target = task.target(example, window)
    return np.asarray(10 * np.eye(len(task.labels))[np.where(target == IGNORED, -1, target)], np.float32)


def expected(task: TokenClassification, example: Example) -> list[tuple[str, int, int]]:
    return list(task.comparable({"entities": example.gold}))


# tags


def make_entities(chance: random.Random, length: int) -> list[tuple[str, int, int]]:
    entities, at = [], 0
    while at < length:
        if chance.random() < 0.6:
            last = min(length, at + chance.randint(1, 4)) - 1
            entities.append((chance.choice(TYPES), at, last))
            at = last
        at += 1
    return entities


def write_tags(entities: Sequence[tuple[str, int, int]], length: int, scheme: str) -> list[str]:
    tags = ["O"] * length
    for number, (label, first, last) in enumerate(entities):
        adjacent = number > 0 and entities[number - 1][0] == label and entities[number - 1][2] == first - 1
        begin = "I" if scheme == "IOB1" and not adjacent else "B"
        tags[first : last + 1] = [f"{begin}-{label}", *[f"I-{label}"] * (last - first)]
        if scheme in ("BIOES", "BILOU"):
            tags[last] = f"{'EL'[scheme == 'BILOU']}-{label}" if last > first else f"{'SU'[scheme == 'BILOU']}-{label}"
    return tags


@pytest.mark.parametrize("scheme", ["IOB1", "IOB2", "BIOES", "BILOU"])
def test_spans_are_the_entities_that_any_scheme_names(scheme: str) -> None:
    chance = random.Random(0)
    for _ in range(300):
        length = chance.randint(0, 12)
        entities = make_entities(chance, length)
        tags = write_tags(entities, length, scheme)
        assert spans(tags) == entities
        if scheme != "BILOU":  # which seqeval's lenient reading does not know
            assert get_entities(tags) == entities


def test_spans_of_tags_in_disorder_are_those_of_seqeval() -> None:
    chance = random.Random(1)
    for _ in range(1000):
        tags = [
            "O" if prefix == "O" else f"{prefix}-{chance.choice(TYPES)}"
            for prefix in chance.choices("OBIES", k=chance.randint(0, 10))
        ]
        assert spans(tags) == get_entities(tags)
        alike = [tag.replace("E-", "L-").replace("S-", "U-") for tag in tags]
        assert spans(alike) == spans(tags)


def test_the_middle_of_an_entity_may_be_an_m() -> None:
    """In BMES, which Chinese corpora have."""
    tags = ["B-LOC", "M-LOC", "E-LOC", "S-LOC", "M"]
    assert spans(tags[:4]) == [("LOC", 0, 2), ("LOC", 3, 3)]
    assert spans(tags)[-1] == ("M", 4, 4)


def test_tags_without_prefix_or_label() -> None:
    assert spans(["LOC", "LOC", "O", "corporate-body"]) == [("LOC", 0, 1), ("corporate-body", 3, 3)]
    assert spans(["B", "I", "O", "I"]) == get_entities(["B", "I", "O", "I"]) == [("_", 0, 1), ("_", 3, 3)]


def test_scores_are_those_of_seqeval() -> None:
    chance, task = random.Random(2), make_task()
    gold, found = [], []
    for _ in range(300):
        length = chance.randint(1, 15)
        tags = write_tags(make_entities(chance, length), length, "IOB2")
        gold.append(tags)
        found.append([chance.choice(task.labels) if chance.random() < 0.2 else tag for tag in tags])
    rows = [[{"tokens": ["w"] * len(tags), "tags": tags} for tags in each] for each in (gold, found)]
    true, answered = ([task.read(row, Columns(), "row") for row in each] for each in rows)
    answers = [{"entities": example.gold} for example in answered]
    scores = task.score(true, answers)
    assert 0.2 < scores["f1"] < 0.9
    assert scores["f1"] == pytest.approx(f1_score(gold, found))
    assert scores["precision"] == pytest.approx(precision_score(gold, found))
    assert scores["recall"] == pytest.approx(recall_score(gold, found))
    for name, each in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
        assert [scores["per_label"][label][name] for label in TYPES] == pytest.approx(each(gold, found, average=None))
    supports = {label: sum(label == entity[0] for tags in gold for entity in get_entities(tags)) for label in TYPES}
    assert {label: scores["per_label"][label]["support"] for label in TYPES} == supports
    counts = task.counts(true, answers)
    several = np.stack([counts.sum(axis=0), counts[:100].sum(axis=0), 0 * counts[0]])
    assert task.values(several)["f1"].tolist() == [
        pytest.approx(scores["f1"]), pytest.approx(f1_score(gold[:100], found[:100])), 0,
    ]  # fmt: skip


# first sub-words


@pytest.mark.parametrize("kind", KINDS)
def test_each_word_is_a_target_on_its_first_sub_word(tmp_path: Path, kind: str) -> None:
    task = make_task()
    example = make_example(
        TEXT, ("O'Brien", "PER"), ("AT&T", "ORG"), ("New York-Newark", "LOC"), ("Siobhán O'Shaughnessy-Smith", "PER")
    )
    tokenizer = task.tokenizer(make_tokenizer(tmp_path, kind))
    (window,) = tokenizer.encode([example.texts])
    target = task.target(example, window)
    assert target.dtype == np.int64
    at = np.flatnonzero(target != IGNORED)
    places = words(TEXT)
    assert len(window.input_ids) > len(places) + 2, "some word has several sub-words"
    labelled = [(TEXT[slice(*place)], task.labels[target[index]]) for place, index in zip(places, at, strict=True)]
    assert [each for each in labelled if each[1] != "O"] == [
        ("O'Brien", "B-PER"), ("AT&T", "B-ORG"), ("New", "B-LOC"), ("York-Newark", "I-LOC"),
        ("Siobhán", "B-PER"), ("O'Shaughnessy-Smith", "I-PER"),
    ]  # fmt: skip
    for (start, end), index in zip(places, at, strict=True):
        first, last = window.offsets[index]
        assert TEXT[first:last].strip() == TEXT[start : min(end, last)] != ""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("max_length", "stride"), [(8, 0), (9, 3), (12, 5), (30, 10)])
def test_windows_of_a_long_text_find_what_one_window_finds(
    tmp_path: Path, kind: str, max_length: int, stride: int
) -> None:
    folder = make_tokenizer(tmp_path, kind)
    text = " ".join([TEXT, "plain words unknown to it, é 東京 ☕", TEXT[::-1]])
    whole, cut = make_task(1000), make_task(max_length, stride)
    (window,) = whole.tokenizer(folder).encode([(text, None)])
    windows = cut.tokenizer(folder).encode([(text, None), ("another film", None)])
    assert len(windows) > 5
    places = words(text)
    ids = window.input_ids[first_tokens(text, places, window)]
    ascii_words = np.array([text[start:end].isascii() for start, end in places])  # others may be cut within a character
    for part in (each for each in windows if each.text == 0):
        own = first_tokens(text, places, part)
        assert (part.input_ids[own] == ids)[(own >= 0) & ascii_words].all(), "one sub-word in all windows"
    expected = whole.decode([(text, None)], [window], [by_id(whole, window)])
    answers = cut.decode([(text, None), ("another film", None)], windows, [by_id(cut, each) for each in windows])
    assert len(expected[0]["entities"]) > 5
    assert answers[0] == expected[0]
    assert all(entity["end"] <= len("another film") for entity in answers[1]["entities"])


def test_a_word_is_read_where_most_is_around_it() -> None:
    task, text = make_task(), "in a Bonn b"
    places = words(text)
    sides = [places[:3], places[2:]]  # of Bonn, the first window ends with it and the second begins with it
    windows = [make_window([(0, 0), *side, *[(0, 0)] * after]) for side, after in zip(sides, (1, 1), strict=True)]
    assert [len(each.input_ids) for each in windows] == [5, 4]
    outputs = [np.zeros((len(each.input_ids), 7), np.float32) for each in windows]
    outputs[0][3, 1], outputs[1][1, 3] = 5, 5
    (answer,) = task.decode([(text, None)], windows, outputs)
    assert answer["entities"][0]["label"] == "LOC", "of equals the first"
    windows[1] = make_window([(0, 0), (3, 4), places[2], places[3], (0, 0)])
    outputs[1] = np.zeros((5, 7), np.float32)
    outputs[1][2, 3] = 5
    (answer,) = task.decode([(text, None)], windows, outputs)
    assert answer["entities"] == [
        {"label": "ORG", "score": pytest.approx(np.exp(5) / (np.exp(5) + 6)), "start": 5, "end": 9, "text": "Bonn"}
    ]


def make_window(offsets: Sequence[tuple[int, int]]) -> Encoded:
    """A token for each place; those of no characters are special."""
    places = np.array(offsets, np.int64)
    zeros = np.zeros(len(offsets), np.int64)
    return Encoded(zeros, zeros, places, np.where(places[:, 0] < places[:, 1], 0, -1), 0, False)


def test_words_that_share_a_token_are_one_entity() -> None:
    task, example = make_task(), make_example("go 東京 ok", ("東京", "LOC"))
    window = make_window([(0, 0), (0, 2), (2, 5), (5, 8), (0, 0)])
    assert task.target(example, window).tolist() == [IGNORED, 0, 1, 0, IGNORED]
    (answer,) = task.decode([example.texts], [window], [as_told(task, example, window)])
    assert task.comparable(answer) == expected(task, example)


def test_the_score_is_the_mean_of_the_words() -> None:
    task, text = make_task(types=["LOC"]), "New York"
    output = np.log(np.array([[0.1, 0.8, 0.1], [0.3, 0.1, 0.6]], np.float32))
    (answer,) = task.decode([(text, None)], [make_window(words(text))], [output])
    assert answer["entities"] == [{"label": "LOC", "score": pytest.approx(0.7), "start": 0, "end": 8, "text": text}]


def test_a_word_cut_by_the_beginning_of_a_window_is_of_the_one_before() -> None:
    task, example = make_task(), make_example("go Bonn", ("Bonn", "LOC"))
    window = make_window([(0, 0), (5, 7), (0, 0)])
    assert task.target(example, window).tolist() == [IGNORED] * 3


def test_tokens_without_text_are_of_no_word() -> None:
    window = make_window([(0, 0), (0, 1), (2, 2), (1, 3), (3, 6), (0, 0)])
    assert first_tokens("a  Bonn", words("a  Bonn"), window).tolist() == [1, 4]
    assert first_tokens("  ", [], window).tolist() == []
    assert first_tokens("a", words("a"), make_window([(0, 0)])).tolist() == [-1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("text", "entities"),
    [
        ("In İZMİR und MÜNCHEN ist es kühl", [("İZMİR", "LOC"), ("MÜNCHEN", "LOC")]),
        ("a\u0300 Orle\u0301ans, 👩\u200d👧 Zoe\u0308!", [("Orle\u0301ans", "LOC"), ("Zoe\u0308", "PER")]),
        ("☕\ufe0f🇩🇪 Bonn 🇩🇪 \U0001d49c. ½ ﬁx ﬁrma", [("Bonn", "LOC"), ("\U0001d49c", "PER"), ("ﬁrma", "ORG")]),
        ("\ufeffNew \x00York\u00a0City \x07", [("New \x00York\u00a0City", "LOC")]),
        ("今日は 東京タワー へ", [("東京タワー", "LOC")]),
        ("\n\n  Bonn\tBonn-Beuel", [("Bonn\tBonn-Beuel", "LOC")]),
        ("no entity ...", []),
        ("", []),
        (" ", []),
    ],
)  # fmt: skip
def test_entities_come_back_at_their_place_in_the_users_text(
    tmp_path: Path, kind: str, text: str, entities: list[tuple[str, str]]
) -> None:
    task, example = make_task(10, 4), make_example(text, *entities)
    windows = task.tokenizer(make_tokenizer(tmp_path, kind)).encode([example.texts])
    (answer,) = task.decode([example.texts], windows, [as_told(task, example, window) for window in windows])
    assert task.comparable(answer) == expected(task, example)
    assert [entity["text"] for entity in answer["entities"]] == [part for part, _ in entities]
    for entity in answer["entities"]:
        assert list(map(type, entity.values())) == [str, float, int, int, str]
        assert 0.99 < entity["score"] <= 1


def test_entities_that_touch_one_word_share_it_as_the_first() -> None:
    task = make_task()
    example = make_example("Bonn-Berlin Mitte", ("Bonn", "LOC"), ("Berlin Mitte", "ORG"))
    window = make_window(words(example.text))
    assert [task.labels[tag] for tag in task.target(example, window)] == ["B-LOC", "B-ORG"]


# rows


def test_tokens_with_tags_and_text_with_entities_are_the_same_example() -> None:
    task = make_task()
    columns = Columns(tokens="words", tags="ner")
    row = {
        "id": 7,
        "words": ["Mr.", "O'Brien ", "saw", "New York", "Bonn"],
        "ner": ["O", "I-PER", "O", "I-LOC", "B-LOC"],
    }
    example = task.read(row, columns, "row")
    assert example == make_example(
        "Mr. O'Brien saw New York Bonn", ("O'Brien", "PER"), ("New York", "LOC"), ("Bonn", "LOC")
    )
    written = task.row(example)
    assert list(written) == ["text", "entities"]
    assert task.read(written, Columns(), "row") == example
    assert task.read_texts(row, columns, "row") == task.read_texts(written, Columns(), "row") == example.texts
    assert task.find_labels([example]) == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    assert task.check(example, "row") == example
    shuffled = {"text": example.text, "entities": [each | {"score": 1.0} for each in example.gold[::-1]], "tags": None}
    assert task.read(shuffled, Columns(), "row") == example


def test_tags_may_be_indices_into_the_labels() -> None:
    row = {"tokens": ["in", "New", "York", "UN"], "tags": [0, 1, 2, 3]}
    named = {"tokens": row["tokens"], "tags": ["O", "B-LOC", "I-LOC", "B-ORG"]}
    assert make_task().read(row, Columns(), "row") == make_task().read(named, Columns(), "row")
    with pytest.raises(InputError, match="row: column 'tags' holds 7; 0 to 6 stand for O, B-LOC, I-LOC, B-ORG"):
        make_task().read({**row, "tags": [0, 1, 2, 7]}, Columns(), "row")
    unnamed = TokenClassification(TaskSettings(**{**make_task().settings.model_dump(), "labels": []}))
    with pytest.raises(InputError, match="row: column 'tags' holds numbers; name the types that they stand for"):
        unnamed.read(row, Columns(), "row")


def test_tags_may_be_indices_into_tags_in_any_order() -> None:
    """As those of tner's data sets are."""
    tags = ["O", "B-PER", "B-LOC", "I-LOC"]
    task = TokenClassification(TaskSettings(**{**make_task().settings.model_dump(), "labels": []}))
    assert task.indexed(tags) == tags
    assert task.name_labels(tags) == task.indexed(["PER", "LOC"]) == ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    reader = TokenClassification(TaskSettings(**{**make_task().settings.model_dump(), "labels": task.indexed(tags)}))
    row = {"tokens": ["Anna", "in", "New", "York"], "tags": [1, 0, 2, 3]}
    example = make_example("Anna in New York", ("Anna", "PER"), ("New York", "LOC"))
    assert reader.check(reader.read(row, Columns(), "row"), "row") == example


def test_entities_may_be_in_another_column() -> None:
    task = make_task()
    row = {"text": "in Bonn", "spans": [{"start": 3, "end": 7, "label": "LOC", "token_start": 1}]}
    assert task.read(row, task.columns({"entities": "spans"}), "row") == make_example("in Bonn", ("Bonn", "LOC"))
    assert task.missing(row, {"entities": "spans"}, labelled=True) == []
    assert task.missing(row, {}, labelled=True) == ["entities"]


def test_scripts_without_blanks_get_none_between_their_tokens() -> None:
    row = {"tokens": ["我", "在", "北京", "EU", "的"], "tags": ["O", "O", "B-LOC", "B-ORG", "O"]}
    assert make_task().read(row, Columns(), "row") == make_example("我在北京 EU 的", ("北京", "LOC"), ("EU", "ORG"))


def test_a_row_without_entities_is_an_example_of_none() -> None:
    task = make_task()
    assert task.read({"text": "plain", "entities": []}, Columns(), "row") == Example("plain", None, [])
    assert task.read({"tokens": ["a"], "tags": ["O"], "text": None}, Columns(), "row") == Example("a", None, [])


ENTITY = {"start": 0, "end": 4, "label": "LOC"}


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"text": "Bonn"}, "nothing is labelled"),
        ({"entities": []}, "column 'text' holds nothing"),
        ({"text": "Bonn", "entities": "LOC"}, "column 'entities' holds 'LOC'"),
        ({"text": "Bonn", "entities": ["LOC"]}, "entity 'LOC': an object with start, end and label"),
        ({"text": "Bonn", "entities": [{"start": 0, "end": 4}]}, "an object with start, end and label"),
        ({"text": "Bonn", "entities": [ENTITY | {"end": 5}]}, "0 <= start < end <= 4"),
        ({"text": "Bonn", "entities": [ENTITY | {"start": -1}]}, "0 <= start < end <= 4"),
        ({"text": "Bonn", "entities": [ENTITY | {"start": 4}]}, "0 <= start < end <= 4"),
        ({"text": "Bonn", "entities": [ENTITY | {"start": "0"}]}, "0 <= start < end <= 4"),
        ({"text": "Bonn", "entities": [ENTITY | {"end": True}]}, "0 <= start < end <= 4"),
        ({"text": "Bonn", "entities": [ENTITY | {"label": ""}]}, "label must be a string, not empty"),
        ({"text": "Bonn", "entities": [ENTITY | {"label": 3}]}, "label must be a string, not empty"),
        ({"text": "in  Bonn", "entities": [ENTITY]}, "'in  ' begins or ends with a blank"),
        ({"text": "Bonn", "entities": [ENTITY, ENTITY | {"start": 3}]}, "overlap"),
        ({"tokens": ["a"]}, "column 'tags' holds None; a list"),
        ({"tokens": "a b", "tags": ["O", "O"]}, "column 'tokens' holds 'a b'; a list"),
        ({"tokens": ["a", "b"], "tags": ["O"]}, "2 tokens but 1 tags"),
        ({"tokens": ["a"], "tags": [3.0]}, "column 'tags' item 1 is 3.0; a string"),
        ({"tokens": ["a", "\u00a0"], "tags": ["O", "O"]}, r"column 'tokens' item 2 is '\xa0'; a string"),
        ({"tokens": ["a", "\ud800"], "tags": ["O", "O"]}, "column 'tokens' item 2 holds a lone surrogate"),
        ({"tokens": ["a"], "tags": ["B-\udc00"]}, "column 'tags' item 1 holds a lone surrogate (U+DC00, character 2)"),
        ({"text": "Bonn", "entities": [ENTITY | {"label": "\ud800"}]}, "label of an entity holds a lone surrogate"),
    ],
)  # fmt: skip
def test_a_row_that_makes_no_sense_is_refused(row: dict[str, Any], fault: str) -> None:
    with pytest.raises(InputError) as caught:
        make_task().read(row, Columns(), "train.jsonl line 7")
    assert str(caught.value).startswith("train.jsonl line 7: ")
    assert fault in str(caught.value)


def test_all_faults_of_a_row_are_told_at_once() -> None:
    row = {"text": "Bonn", "entities": [ENTITY | {"end": 9}, ENTITY | {"label": None}]}
    with pytest.raises(InputError) as caught:
        make_task().read(row, Columns(), "row")
    assert len(caught.value.faults) == 2


@pytest.mark.parametrize("row", [{}, {"text": 3, "tokens": ["a"]}, {"tokens": ["a", ""]}])
def test_a_row_that_asks_nothing_is_refused(row: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"^row 1: column '(text|tokens)'"):
        make_task().read_texts(row, Columns(), "row 1")


def test_an_unknown_entity_is_refused() -> None:
    with pytest.raises(InputError, match=r"^row 3: unknown entities MISC; known are LOC, ORG, PER"):
        make_task().check(make_example("Bonn", ("Bonn", "MISC")), "row 3")

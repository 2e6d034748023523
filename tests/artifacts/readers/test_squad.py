"""SQuAD's layout, lists of objects, and what is neither."""

import json
from pathlib import Path
from typing import Any

import pytest

from bertline.artifacts.errors import InputError
from bertline.artifacts.readers import squad

V2 = """{"version": "v2.0", "data": [{"title": "Bonn", "paragraphs": [{"context": "Bonn is a city.", "qas": [
  {"id": "a1", "question": "What is Bonn?", "answers": [{"text": "a city", "answer_start": 8}], "is_impossible": false},
  {"question": "Who is Bonn?", "answers": [], "is_impossible": true}]}]}]}"""


def read(content: str) -> list[tuple[str, dict[str, Any]]]:
    return list(squad.rows([content], Path("a.json")))


def test_every_question_is_a_row_with_its_context() -> None:
    (place, first), (second_place, second) = read(V2)
    assert (place, second_place) == ("a.json question a1", "a.json question 2")
    assert first == {
        "id": "a1", "title": "Bonn", "question": "What is Bonn?", "context": "Bonn is a city.",
        "answers": [{"text": "a city", "answer_start": 8}], "is_impossible": False,
    }  # fmt: skip
    assert (second["is_impossible"], second["answers"]) == (True, [])


def test_a_question_without_answers_is_not_one_that_has_none() -> None:
    """Otherwise a test set whose answers are kept secret would say that no question has any."""
    secret = V2.replace('"answers": [{"text": "a city", "answer_start": 8}], ', "").replace('"answers": [], ', "")
    assert [row["answers"] for _, row in read(secret)] == [None, []]  # the second is impossible


def test_a_list_of_objects_is_rows() -> None:
    assert read('[{"text": "a"}, {"text": "b"}]') == [
        ("a.json item 1", {"text": "a"}),
        ("a.json item 2", {"text": "b"}),
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"text": "a"}\n{"text": "b"}', r"a\.json line 2: not JSON .*one object a line is \.jsonl"),
        ('{"rows": []}', r"a\.json: holds the keys rows; a list of objects \(also under 'data'\), or SQuAD's"),
        ("3", r"a\.json: holds a int"),
        ("[1]", r"a\.json item 1: a int where an object is expected"),
        ('{"data": [{"paragraphs": [{"qas": [{"question": "a"}]}]}]}', r"article 1, question 1: .*'context'"),
        ("[" * 100_000, r"a\.json: not readable as JSON"),
    ],
)
def test_what_is_neither_is_told(content: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read(content)


def test_a_list_of_objects_may_be_under_data() -> None:
    """As transformers' run_qa.py has it."""
    row = {"id": "7", "question": "who?", "context": "Anna", "answers": {"text": ["Anna"], "answer_start": [0]}}
    assert [found for _, found in read(json.dumps({"version": "1", "data": [row]}))] == [row]

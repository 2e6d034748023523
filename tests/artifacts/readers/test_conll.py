"""CoNLL files as they are found: spaces or tabs, two columns or more, documents, blank lines of any kind."""

from pathlib import Path
from typing import Any

import pytest

from bertline.artifacts.errors import InputError
from bertline.artifacts.readers import conll

PATH = Path("train.conll")


def read(text: str) -> list[tuple[str, dict[str, Any]]]:
    return list(conll.rows(text.splitlines(keepends=True), PATH))


def test_token_and_tag_are_the_first_and_last_column() -> None:
    text = "-DOCSTART- -X- O\n\nU.N. NNP I-ORG\nheads  NNS O\n\n\n \t\r\nBonn NNP I-LOC\n-DOCSTART-\n. . O"
    assert read(text) == [
        ("train.conll line 3", {"tokens": ["U.N.", "heads"], "tags": ["I-ORG", "O"]}),
        ("train.conll line 8", {"tokens": ["Bonn"], "tags": ["I-LOC"]}),
        ("train.conll line 10", {"tokens": ["."], "tags": ["O"]}),
    ]


def test_tabs_separate_where_there_are_any() -> None:
    rows = read("New York\tNNP\tB-LOC\r\nis VBZ O\r\nbig\tJJ\tO\r\n")
    assert rows == [("train.conll line 1", {"tokens": ["New York", "is", "big"], "tags": ["B-LOC", "O", "O"]})]


def test_only_blanks_separate_where_there_are_no_tabs() -> None:
    assert read("10\u00a0000 O\n")[0][1] == {"tokens": ["10\u00a0000"], "tags": ["O"]}


@pytest.mark.parametrize("text", ["", "\n\n", "-DOCSTART- O\n\n"])
def test_no_sentence_is_no_row(text: str) -> None:
    assert read(text) == []


@pytest.mark.parametrize(
    ("line", "missing"), [("Bonn", "tag"), ("Bonn\t", "tag"), ("Bonn\tNNP\t", "tag"), ("\tB-LOC", "token")]
)
def test_a_line_without_token_or_tag_is_refused(line: str, missing: str) -> None:
    with pytest.raises(InputError, match=rf"train\.conll line 3: no {missing};"):
        read(f"to O\n\n{line}\n")


@pytest.mark.parametrize("blank", ["", "\n"])
def test_plain_text_is_refused(blank: str) -> None:
    text = f"-DOCSTART-\n{blank}Obama visited Paris .\n{blank}He left .\n"
    words = f"line {3 + 2 * len(blank)}: 3 columns where line {2 + len(blank)} has 4; .*plain text"
    with pytest.raises(InputError, match=words):
        read(text)


def test_comments_before_a_sentence_are_left_out() -> None:
    """A # that is a token has as many columns as the others."""
    text = "# id 7\tdomain=en\n# more\ndoris _ _ B-PER\n# _ _ O\n\n# _ _ O\nBonn _ _ B-LOC\n"
    assert [row["tokens"] for _, row in read(text)] == [["doris", "#"], ["#", "Bonn"]]

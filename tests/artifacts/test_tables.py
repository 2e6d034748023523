"""Rows of data files, and how a bad file is told."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from bertline.artifacts import tables
from bertline.artifacts.errors import InputError


def read(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in tables.rows(path)]


def test_csv_keeps_what_the_file_says(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('\ufefftext,label\n"two\nlines, ""quoted""",007\nNA,null\n\n')
    assert read(path) == [{"text": 'two\nlines, "quoted"', "label": "007"}, {"text": "NA", "label": "null"}]
    assert [where for where, _ in tables.rows(path)] == [f"{path} row 2", f"{path} row 3"]


def test_tsv_json_lines_and_parquet_give_the_same_rows(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": "x"}, {"text": "ü", "label": "y"}]
    (tmp_path / "a.tsv").write_text("text\tlabel\na\tx\nü\ty\n")
    (tmp_path / "a.jsonl").write_text('{"text": "a", "label": "x"}\n\n{"text": "ü", "label": "y"}\n')
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for name in ("a.tsv", "a.jsonl", "a.parquet"):
        assert read(tmp_path / name) == rows, name
    assert [where for where, _ in tables.rows(tmp_path / "a.jsonl")][1].endswith("line 3")
    assert [where for where, _ in tables.rows(tmp_path / "a.parquet")][1].endswith("row 2")


def test_a_long_field_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"text\n{'long ' * 100_000}\n")
    assert len(read(path)[0]["text"]) == 500_000


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"", "empty"),
        ("a.csv", b"text,label\n", "empty"),
        ("a.csv", b"text,label\na,x\nb\n", "row 3: 1 fields where the header has 2"),
        ("a.csv", b'text\n"never closed\n', "unexpected end of data"),
        ("a.csv", b"text\n\xff\xfe\n", "not UTF-8"),
        ("a.jsonl", b"", "empty"),
        ("a.jsonl", b'{"text": "a"}\n{"text": ', "line 2: not JSON"),
        ("a.jsonl", b"[1]\n", "line 1: a list where an object"),
        ("a.parquet", b"PAR1 but not really", "not readable as Parquet"),
        ("a.xlsx", b"PK", "unknown kind of file '.xlsx'"),
    ],
)
def test_a_bad_file_is_told_with_name_and_row(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        read(path)
    assert name in str(caught.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read(tmp_path / "a.csv")

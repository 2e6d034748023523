"""Rows of data files, and how a bad file is told."""

import bz2
import gzip
import json
import lzma
import random
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import feather, ipc, parquet

from bertline.artifacts import tables
from bertline.artifacts.errors import InputError

ROWS = [{"text": "a", "label": "x"}, {"text": "ü", "label": "y"}]
CSV = "text,label\na,x\nü,y\n".encode()
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lambda data: lzma.compress(data, preset=0),  # whose dictionary is small
    ".zst": lambda data: bytes(pa.compress(data, codec="zstd", asbytes=True)),
}
compressions = pytest.mark.parametrize("compression", COMPRESS)


def read(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in tables.rows(path)]


def write_arrow(path: Path, rows: list[dict[str, Any]], **options: Any) -> None:
    """An IPC stream, as `datasets` saves it."""
    table = pa.Table.from_pylist(rows)
    with ipc.new_stream(path, table.schema) as stream:
        stream.write_table(table, **options)


def test_csv_keeps_what_the_file_says(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('\ufefftext,label\n"two\nlines, ""quoted""",007\nNA,null\n\n')
    assert read(path) == [{"text": 'two\nlines, "quoted"', "label": "007"}, {"text": "NA", "label": "null"}]
    assert [where for where, _ in tables.rows(path)] == [f"{path} row 2", f"{path} row 3"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_line_end_ends_a_row_and_quotes_keep_it(tmp_path: Path, end: str) -> None:
    (tmp_path / "a.csv").write_bytes(f'text,label{end}"two{end}lines",x{end}b,y'.encode())
    assert read(tmp_path / "a.csv") == [{"text": f"two{end}lines", "label": "x"}, {"text": "b", "label": "y"}]
    (tmp_path / "a.jsonl").write_bytes(f'{{"text": "a"}}{end}{{"text": "b"}}{end}'.encode())
    assert read(tmp_path / "a.jsonl") == [{"text": "a"}, {"text": "b"}]
    (tmp_path / "a.conll").write_bytes(f"Anna B-PER{end}sings O{end}{end}well O{end}".encode())
    assert len(read(tmp_path / "a.conll")) == 2


def test_all_tables_give_the_same_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(CSV)
    (tmp_path / "a.tsv").write_text("text\tlabel\na\tx\nü\ty\n")
    (tmp_path / "a.jsonl").write_text('{"text": "a", "label": "x"}\n\n{"text": "ü", "label": "y"}\n')
    (tmp_path / "a.ndjson").write_text('\ufeff{"text": "a", "label": "x"}\n{"text": "ü", "label": "y"}')
    (tmp_path / "a.json").write_text('\ufeff[{"text": "a", "label": "x"},\n{"text": "ü", "label": "y"}]')
    parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    write_arrow(tmp_path / "a.arrow", ROWS)
    feather.write_feather(pa.Table.from_pylist(ROWS), str(tmp_path / "file.arrow"))
    for path in sorted(tmp_path.iterdir()):
        assert read(path) == ROWS, path.name
        (path.rename(tmp_path / path.name.upper()))
        assert read(tmp_path / path.name.upper()) == ROWS, path.name.upper()
    assert [where for where, _ in tables.rows(tmp_path / "A.JSONL")][1].endswith("line 3")
    assert [where for where, _ in tables.rows(tmp_path / "A.PARQUET")][1].endswith("row 2")
    assert [where for where, _ in tables.rows(tmp_path / "A.ARROW")][1].endswith("row 2")


@pytest.mark.parametrize("suffix", [".conll", ".iob", ".bio", ".txt"])
def test_conll_is_read(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a{suffix}").write_text("\ufeffAnna B-PER\nsings O\n\nwell O\n")
    assert [row["tokens"] for row in read(tmp_path / f"a{suffix}")] == [["Anna", "sings"], ["well"]]


def test_a_folder_that_datasets_saved_is_read(tmp_path: Path) -> None:
    import datasets

    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    (path,) = (tmp_path / "saved").glob("*.arrow")
    assert read(path) == ROWS


def write_classes(path: Path) -> None:
    """A file with numbers that it names, as `datasets` writes Parquet and its folders."""
    import datasets

    names, tags = datasets.ClassLabel(names=["neg", "pos"]), datasets.ClassLabel(names=["O", "B-X"])
    features = datasets.Features(label=names, tags=datasets.Sequence(tags))
    rows = {"label": [1, -1, None], "tags": [[1, 0], [], [-1]]}
    table = datasets.Dataset.from_dict(rows, features=features).data.table
    if path.suffix == ".parquet":
        parquet.write_table(table, path)
    else:
        feather.write_feather(table, str(path))


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_numbers_that_the_file_names_are_read_as_names(tmp_path: Path, name: str) -> None:
    write_classes(tmp_path / name)
    found = [(row["label"], row["tags"]) for row in read(tmp_path / name)]
    assert found == [("pos", ["B-X", "O"]), (None, []), (None, [None])]
    kept = [row["label"] for _, row in tables.rows(tmp_path / name, lambda column, names: "neg" not in names)]
    assert kept == [1, -1, None]
    with (tmp_path / name).open("rb") as raw:
        assert len(list(tables.attempts(tmp_path / name, raw, lambda names: ["tags"]))) == 3


def test_rows_of_many_batches_are_counted_through(tmp_path: Path) -> None:
    rows = [{"text": str(i)} for i in range(3000)]
    write_arrow(tmp_path / "stream.arrow", rows, max_chunksize=700)
    feather.write_feather(pa.Table.from_pylist(rows), str(tmp_path / "file.arrow"), chunksize=700)
    feather.write_feather(pa.Table.from_pylist(rows), str(tmp_path / "whole.arrow"))
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=700)
    for path in tmp_path.iterdir():
        assert list(tables.rows(path)) == [(f"{path} row {i}", row) for i, row in enumerate(rows, start=1)]


@compressions
@pytest.mark.parametrize("name", ["a.csv", "a.TSV", "a.jsonl", "a.NDJSON", "a.json", "a.conll"])
def test_texts_are_read_compressed(tmp_path: Path, name: str, compression: str) -> None:
    (tmp_path / "a.csv").write_bytes(CSV)
    (tmp_path / "a.TSV").write_bytes(CSV.replace(b",", b"\t"))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "a.NDJSON").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "a.json").write_text(json.dumps(ROWS))
    (tmp_path / "a.conll").write_text("Anna B-PER\nsings O\n\nwell O\n")
    plain = tmp_path / name
    data = plain.read_bytes()
    for suffix in (compression, compression.upper()):
        packed = tmp_path / f"{name}{suffix}"
        packed.write_bytes(COMPRESS[compression](data))
        assert read(packed) == read(plain)
        packed.write_bytes(COMPRESS[compression](data[:7]) + COMPRESS[compression](data[7:]))  # in members, as pigz
        assert read(packed) == read(plain)


@compressions
def test_a_compressed_file_that_is_not_whole_is_told_after_its_rows(tmp_path: Path, compression: str) -> None:
    path = tmp_path / f"a.csv{compression}"
    numbers = random.Random(7)
    packed = COMPRESS[compression](
        b"text,label\n" + b"".join(b"%x,x\n" % numbers.getrandbits(800) for _ in range(10_000))
    )
    path.write_bytes(packed[:-20])
    found: list[str] = []
    with pytest.raises(InputError, match="truncated, damaged or not a") as caught:
        found.extend(where for where, _ in tables.rows(path))
    assert len(found) > 3000  # extend keeps what came before the error
    assert str(caught.value).startswith(str(path))
    damaged = bytearray(packed)
    damaged[len(packed) // 2 : len(packed) // 2 + 100] = b"\xff" * 100
    path.write_bytes(damaged)
    with pytest.raises(InputError):
        read(path)


@compressions
def test_a_plain_file_with_the_suffix_of_a_compressed_one_is_told(tmp_path: Path, compression: str) -> None:
    path = tmp_path / f"a.csv{compression}"
    path.write_bytes(CSV)
    with pytest.raises(InputError, match=rf"truncated, damaged or not a \{compression} file"):
        read(path)


@compressions
def test_memory_stays_flat(tmp_path: Path, compression: str) -> None:
    path = tmp_path / f"a.csv{compression}"
    part = b"a text of some length it is".ljust(2999) + b"\n"
    path.write_bytes(COMPRESS[compression](b"text\n") + COMPRESS[compression](part * 100) * 50)
    tracemalloc.start()
    try:
        assert sum(1 for _ in tables.rows(path)) == 5000
        assert tracemalloc.get_traced_memory()[1] < 5000 * len(part) / 5
    finally:
        tracemalloc.stop()


def test_zst_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.csv.zst").write_bytes(COMPRESS[".zst"](CSV))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        InputError, match=r"reading \.zst needs pyarrow; decompress .* unzstd, or .*: pip install .*parquet"
    ):
        read(tmp_path / "a.csv.zst")


def test_arrow_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_arrow(tmp_path / "a.arrow", ROWS)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"reading Arrow needs pyarrow; in bertline's folder: pip install .*parquet"):
        read(tmp_path / "a.arrow")


def test_a_long_field_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"text\n{'long ' * 100_000}\n")
    assert len(read(path)[0]["text"]) == 500_000


def test_the_header_may_have_one_column_without_a_name(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(",text\n0,a\n")
    assert read(tmp_path / "a.csv") == [{"": "0", "text": "a"}]


@pytest.mark.parametrize(
    ("name", "header", "column"),
    [("a.csv", '"a;b"', "a;b"), ("a.csv", "what; now", "what; now"), ("a.tsv", "text, raw", "text, raw")],
)
def test_the_name_of_a_single_column_may_hold_another_delimiter(
    tmp_path: Path, name: str, header: str, column: str
) -> None:
    (tmp_path / name).write_text(f"{header}\nx\n")
    assert read(tmp_path / name) == [{column: "x"}]


@pytest.mark.parametrize(
    ("name", "stray", "words"),
    [
        ("a.csv", '2,"Twas great', r"line 3: unexpected end of data in the row that begins here and ends on line 53;"),
        ("a.csv", '2,"Twas great"', None),
        ("a.csv", '2,"Twas great\n4,so "great" it was', r"line 3: ',' expected after '\"' .* and ends on line 4;"),
        ("a.csv", '2,"Twas great\n4,he said","x"', r"row 3: 3 fields where the header has 2 \(lines 3 to 4\);"),
        ("a.tsv", '2\t"Twas great\n4\tgreat"', r"row 3: a quoted field \(lines 3 to 4\) holds a tab and a line end"),
    ],
)
def test_rows_that_a_stray_quote_swallows_are_not_one_bad_row(
    tmp_path: Path, name: str, stray: str, words: str | None
) -> None:
    """Whoever goes on after bad rows would lose them without a word."""
    (tmp_path / name).write_text(
        "\n".join(["id,text", "1,a", stray, *["3,b"] * 50]).replace(",", ",\t"[name == "a.tsv"])
    )
    with tables.opened(tmp_path / name) as raw:
        if words is None:
            assert sum(not isinstance(one.row, InputError) for one in tables.attempts(tmp_path / name, raw)) == 52
            return
        with pytest.raises(InputError, match=words):
            list(tables.attempts(tmp_path / name, raw))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"", "empty, it has no rows"),
        ("a.csv", b"\xef\xbb\xbf", "empty, it has no rows"),
        ("a.csv.gz", b"", "empty, it has no rows"),
        ("a.csv", b"text,label\n", "empty, it has no rows"),
        ("a.csv", b"\ntext,label\na,x\n", "row 1: blank; the first row names the columns"),
        ("a.csv", b" ,\na,x\n", "row 1: blank"),
        ("a.csv", b"text,label,text\na,x,b\n", "row 1: more than one column is named 'text'"),
        ("a.csv", b"text,,\na,x,b\n", "row 1: more than one column is named ''"),
        ("a.csv", b"text,label\na,x\nb\n", "row 3: 1 fields where the header has 2 (line 3); quote a field"),
        ("a.csv", b'text,label\n"a\n\nb",x\nb,c,d\n', "row 3: 3 fields where the header has 2 (line 5)"),
        ("a.csv", b"text;label\na;x\n", "row 1: fields are separated by ';', and .csv is read by commas; make another"),
        ("a.csv", b'"text";"label"\n"a";"x"\n', "pandas.read_csv('a.csv', sep=';', dtype=str, keep_default_na=False)"),
        ("a.csv.gz", gzip.compress(b"text|label\na|x\n", mtime=0), "fields are separated by '|'"),
        (
            "a.csv",
            b"text\tlabel\na\tx\n",
            r"by '\t', and .csv is read by commas; name the file .tsv",
        ),
        ("a.tsv", b"text,label\na,x\n", "fields are separated by ',', and .tsv is read by tabs; name the file .csv"),
        ("a.tsv", b"text\tlabel\na\tx\tz\n", "quote a field that holds a tab"),
        ("a.tsv", b'text\tlabel\na\tx\n"so\tx\nhe said"\ty\n', "row 3: a quoted field (lines 3 to 4) holds a tab and"),
        ("a.csv", b'text\na\n"never\nclosed\n', "line 3: unexpected end of data in the row that begins here"),
        ("a.csv", b'text\n"a"b\n', "line 2: ',' expected after '\"'"),
        ("a.csv", b"text\na\nb\0c\n", "line 3: holds a NUL"),
        ("a.csv", "text\na\n".encode("utf-16-le"), "line 1: holds a NUL, which is no text; if the text is UTF-16"),
        ("a.jsonl", '{"text": 1}\n'.encode("utf-16-be"), "line 1: holds a NUL"),
        ("a.txt", "Anna O\n".encode("utf-16-le"), "line 1: holds a NUL"),
        ("a.csv", "text\na\n".encode("utf-16"), "UTF-16, not UTF-8; convert the text, for example with iconv"),
        ("a.json", b"\xfe\xff" + "[]".encode("utf-16-be"), "UTF-16, not UTF-8"),
        ("a.csv", b"text\na\nb\xe9\n", "line 3: not UTF-8 (byte 0xe9); convert the text"),
        ("a.csv", b"text\ra\rb\xe9\r", "line 3: not UTF-8 (byte 0xe9)"),
        ("a.csv", b"text\na\n" * 50_000 + b"\xff", "line 100001: not UTF-8 (byte 0xff)"),
        ("a.conll", b"Anna O\n\xe2\x82", "line 2: not UTF-8 (byte 0xe2)"),
        ("a.json.gz", gzip.compress(b'[\n{"text": "\xfc"}]', mtime=0), "line 2: not UTF-8 (byte 0xfc)"),
        ("a.jsonl", b"", "empty, it has no rows"),
        ("a.jsonl", b"\n \n", "empty, it has no rows"),
        ("a.jsonl", b'{"text": "a"}\n{"text": ', "line 2: not JSON"),
        ("a.jsonl", b'{"text":' * 100_000, "line 1: not JSON"),
        ("a.jsonl", b"[1]\n", "line 1: a list where an object"),
        ("a.parquet", b"PAR1 but not really", "truncated, damaged or not a .parquet file"),
        ("a.parquet", b"", "truncated, damaged or not a .parquet file"),
        ("a.arrow", b"", "truncated, damaged or not a .arrow file"),
        ("a.arrow", b"ARROW1 but not really", "truncated, damaged or not a .arrow file"),
        ("a.arrow", CSV, "truncated, damaged or not a .arrow file"),
        ("a.parquet.gz", b"", "Parquet is compressed inside, .gz is not read; decompress the file"),
        ("a.arrow.zst", b"", "Arrow is compressed inside"),
        ("a.xlsx", b"PK", "unknown kind of file '.xlsx'; data is read from .csv, .tsv"),
        ("a.xlsx.gz", b"PK", "unknown kind of file '.xlsx'"),
        ("a.gz", b"", "unknown kind of file ''"),
        ("a", b"", "unknown kind of file ''"),
    ],
)
def test_a_bad_file_is_told_with_name_and_row(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read(path)
    assert words in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_an_arrow_stream_that_is_cut_short_is_told_after_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    write_arrow(path, [{"text": str(i)} for i in range(2000)], max_chunksize=1000)
    path.write_bytes(path.read_bytes()[:-100])
    rows = tables.rows(path)
    assert [next(rows)[1]["text"] for _ in range(1000)][-1] == "999"
    with pytest.raises(InputError, match=r"a\.arrow: truncated, .*; download or make the file again$"):
        next(rows)


def test_a_damaged_parquet_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.Table.from_pylist([{"text": f"{i * i}"} for i in range(5000)]), path)
    content = bytearray(path.read_bytes())
    content[4:2000] = b"\xff" * 1996
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.parquet: truncated, .*; download or make the file again$"):
        read(path)


def test_arrow_and_parquet_with_a_name_twice_or_bytes_as_text_are_told(tmp_path: Path) -> None:
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    odd = pa.table({"text": pa.array([b"\xff"]).view(pa.string())})
    for table, words in ((twice, "more than one column is named 'text'"), (odd, "not UTF-8")):
        parquet.write_table(table, tmp_path / "a.parquet")
        feather.write_feather(table, str(tmp_path / "a.arrow"))
        for name in ("a.parquet", "a.arrow"):
            with pytest.raises(InputError, match=words):
                read(tmp_path / name)


@pytest.mark.parametrize(
    ("value", "kind"), [(4_000_000, pa.date32()), (2**63 - 1, pa.timestamp("us")), (2**63 - 1, pa.duration("s"))]
)
def test_a_value_that_python_has_none_for_is_its_rows_fault(tmp_path: Path, value: int, kind: pa.DataType) -> None:
    table = pa.table({"text": ["a", "b", "c"], "when": pa.array([0, value, 0], kind)})
    parquet.write_table(table, tmp_path / "a.parquet")
    feather.write_feather(table, str(tmp_path / "a.arrow"))
    for path in tmp_path.iterdir():
        with path.open("rb") as raw:
            found = [attempt.row for attempt in tables.attempts(path, raw)]
        assert [isinstance(row, InputError) for row in found] == [False, True, False]
        assert "row 2: holds a value that Python has none for" in str(found[1])


def test_columns_are_those_of_the_header(tmp_path: Path) -> None:
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(CSV))
    write_arrow(tmp_path / "a.arrow", ROWS)
    assert tables.columns(tmp_path / "a.csv.gz") == tables.columns(tmp_path / "a.arrow") == ["text", "label"]


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.csv.bz2", "a.csv.xz", "a.parquet", "a.arrow"])
def test_a_missing_file_is_told(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"{name}: No such file or directory$"):
        read(tmp_path / name)


def test_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(InputError, match="Is a directory"):
        read(tmp_path / "a.csv")

"""The schema of bertline.json, as it is published and as it is checked."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from bertline.artifacts import bundle, recipe_schema
from bertline.artifacts.files import FileEntry

PUBLISHED = Path(__file__).parents[2] / "docs/bertline.schema.json"


def test_the_published_schema_is_the_one_that_is_checked() -> None:
    """`make schema` writes it anew."""
    published = json.loads(PUBLISHED.read_text())
    Draft202012Validator.check_schema(published)
    assert published == bundle.schema()


def test_the_schema_says_what_every_key_means() -> None:
    schema = bundle.schema()
    assert schema["properties"]["schema_version"]["const"] == 1
    assert {"schema_version", "task", "runtime", "golden", "files"} <= set(schema["required"])
    assert schema["additionalProperties"] is False
    assert all(one.get("additionalProperties") is False for one in schema["$defs"].values() if "properties" in one)


def _descriptions(schema: Any) -> Iterator[str]:
    for key, value in schema.items() if isinstance(schema, dict) else enumerate(schema):
        if key == "description" and isinstance(value, str):
            yield value
        elif isinstance(value, dict | list):
            yield from _descriptions(value)


@pytest.mark.parametrize("schema", [bundle.schema, recipe_schema.schema])
def test_every_description_stands_alone(schema: Callable[[], dict[str, Any]]) -> None:
    found = list(_descriptions(schema()))
    assert len(found) > 50
    assert [one for one in found if one.startswith(("Of ", "Those ", "That "))] == []


@pytest.mark.parametrize("path", ["a", "a/b.c", ".hidden", "...", "a b/ü", "a/..b/c.."])
def test_a_path_within_the_folder_is_one(path: str) -> None:
    entry = FileEntry(path=path, size_bytes=0, sha256="0" * 64)
    assert Draft202012Validator(FileEntry.model_json_schema()).is_valid(entry.model_dump())


@pytest.mark.parametrize("path", ["", "/", "/a", "a/", "a//b", ".", "..", "./a", "../a", "a/..", "a/./b", "a\0"])
def test_any_other_path_is_none(path: str) -> None:
    values: dict[str, Any] = {"path": path, "size_bytes": 0, "sha256": "0" * 64}
    with pytest.raises(ValueError, match="path"):
        FileEntry(**values)
    assert not Draft202012Validator(FileEntry.model_json_schema()).is_valid(values)

"""Names of integers, as `datasets` writes them into a schema."""

import json
from collections.abc import Sequence

import pyarrow as pa
import pytest

from bertline.artifacts.readers.class_labels import class_names


def always(column: str, names: Sequence[str]) -> bool:
    return True


def test_names_are_found_in_lists_as_older_datasets_wrote_them() -> None:
    told = {"info": {"features": {"tags": [{"names": ["O"], "_type": "ClassLabel"}], "text": {"_type": "Value"}}}}
    schema = pa.schema([("tags", pa.list_(pa.int64()))], {"huggingface": json.dumps(told)})
    assert class_names(schema, always) == {"tags": ["O"]}
    assert class_names(pa.schema([], {"huggingface": '{"info": null}'}), always) == {}


@pytest.mark.parametrize(
    "told",
    [
        "not json", "[]", "null", '{"info": []}', '{"info": {"features": null}}',
        *(f'{{"info": {{"features": {{"label": {feature}}}}}}}' for feature in (
            "[]", "null", "1", '{"feature": "x"}', '{"_type": "ClassLabel"}', '{"_type": "ClassLabel", "names": [1]}',
        )),
    ],
)  # fmt: skip
def test_class_names_that_datasets_would_not_write_are_ignored(told: str) -> None:
    assert class_names(pa.schema([("label", pa.int64())], {"huggingface": told}), always) == {}

"""JSON files: a list of objects, also under `data`, or SQuAD's layout (https://rajpurkar.github.io/SQuAD-explorer)."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bertline.artifacts.errors import InputError

EXPECTED = (
    "a list of objects (also under 'data'), or SQuAD's {'data': [{'paragraphs': [{'context', 'qas'}]}]}, is expected"
)


def rows(lines: Iterable[str], path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (where, row) for each question with its context, title and answers, or for each object of a list.

    Raises:
        InputError: the file is not JSON, or has neither layout.
    """
    try:
        content = json.loads("".join(lines))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} line {error.lineno}: not JSON ({error.msg}); one object a line is .jsonl") from None
    except (ValueError, RecursionError) as error:  # numbers with thousands of digits, or deep nesting
        raise InputError(f"{path}: not readable as JSON ({error})") from None
    if isinstance(content, dict) and isinstance(content.get("data"), list):
        if any("paragraphs" in item for item in content["data"] if isinstance(item, dict)):
            yield from _questions(content["data"], path)
            return
        content = content["data"]
    if not isinstance(content, list):
        found = f"the keys {', '.join(content)}" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise InputError(f"{path}: holds {found:.200}; {EXPECTED}")
    for number, item in enumerate(content, start=1):
        if not isinstance(item, dict):
            raise InputError(f"{path} item {number}: a {type(item).__name__} where an object is expected")
        yield f"{path} item {number}", item


def _questions(articles: list[Any], path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    number = 0
    for place, article in enumerate(articles, start=1):
        try:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    number += 1
                    row = {
                        "id": str(question.get("id", number)),
                        "title": article.get("title", ""),
                        "question": question["question"],
                        "context": paragraph["context"],
                        "answers": question.get("answers", [] if question.get("is_impossible") is True else None),
                        "is_impossible": question.get("is_impossible", False),
                    }
                    yield f"{path} question {row['id']}", row
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path}: article {place}, question {number}: not as expected ({error}); {EXPECTED}"
            ) from None

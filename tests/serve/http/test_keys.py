"""API keys: what a file and the environment may hold, and which headers are admitted."""

from pathlib import Path

import pytest

from bertline.artifacts.errors import InputError
from bertline.serve.http.keys import ENVIRONMENT, Keys


def test_each_line_of_the_file_and_each_part_of_the_variable_is_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "keys"
    path.write_text("# of the shop\nfirst\n\n  second  \n  # third\n")
    monkeypatch.setenv(ENVIRONMENT, "fourth, fifth")
    keys = Keys.read(path)
    for key in ("first", "second", "fourth", "fifth"):
        assert keys.admit(f"Bearer {key}")
        assert keys.admit(f"bearer  {key} ")
    for header in (
        "",
        "Bearer",
        "Bearer ",
        "first",
        "Basic first",
        "Bearer firs",
        "Bearer # of the shop",
        "Bearer # third",
    ):
        assert not keys.admit(header)


def test_without_keys_none_is_demanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    keys = Keys.read(None)
    assert not keys.demanded
    assert keys.admit("")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "holds no key; leave it out"),
        ("# only a comment\n", "holds no key; leave it out"),
        ("two words\n", "not printable ASCII without spaces"),
        ("schlüssel\n", "not printable ASCII without spaces"),
    ],
)
def test_what_is_no_key_is_refused(tmp_path: Path, content: str, told: str) -> None:
    path = tmp_path / "keys"
    path.write_text(content)
    with pytest.raises(InputError, match=told):
        Keys.read(path)

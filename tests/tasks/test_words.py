"""What counts as a word: in scripts with and without blanks, with accents, joiners and punctuation."""

import pytest

from bertline.tasks.words import words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("O'Brien left the U.S. co-op: 3.5%", ["O'Brien", "left", "the", "U.S", ".", "co-op", ":", "3.5", "%"]),
        ("(AT&T) don’t -- @x_1 a--b", ["(", "AT&T", ")", "don’t", "-", "-", "@", "x_1", "a", "-", "-", "b"]),
        ("Germany's it’s O'Seas 'S's.", ["Germany", "'", "s", "it", "’", "s", "O'Seas", "'", "S", "'", "s", "."]),
        ("e\u0301te\u0301 हिन्दी co\u00adop", ["e\u0301te\u0301", "हिन्दी", "co\u00adop"]),
        ("👩\u200d👧 ok☕\ufe0f", ["👩\u200d", "👧", "ok", "☕\ufe0f"]),
        ("東京 in日本 ไทย", ["東", "京", "in", "日", "本", "ไ", "ท", "ย"]),
        ("한국은 שלום", ["한국은", "שלום"]),
        (" \u00a0\n", []),
        ("", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert [text[start:end] for start, end in words(text)] == expected


@pytest.mark.parametrize("text", ["O'Brien left AT&T.", "a\u0301b\u200d 👩\u200d👧 \x00東京\ufeff..x"])
def test_every_character_but_blanks_is_of_one_word(text: str) -> None:
    places = words(text)
    assert [at for start, end in places for at in range(start, end)] == [
        at for at, character in enumerate(text) if not character.isspace()
    ]

"""Split plain text into words, in the same way for every tokenizer, in training and in serving."""

import re
import unicodedata
from collections.abc import Iterable
from functools import cache
from itertools import pairwise

Span = tuple[int, int]
"""Start and end of a span in characters; the end is exclusive."""
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Chinese characters
)
"""Scripts without spaces between words: each letter is a word, since a whole sentence would be one otherwise."""
PLANES = (range(0x20000), range(0xE0000, 0xE0200))
"""Ranges of code points that contain all marks and joiners."""


def words(text: str) -> list[Span]:
    """The spans of the words of a text, which are the units that get labels.

    A word is letters, digits and underscores, also joined by one of -'’.& (O'Brien, U.S, co-op, 3.5), or any other
    non-blank character alone; each with the accents and joiners that follow it. The English possessive (Germany's) is
    none of the word's, as corpora have it.
    """
    return [match.span() for match in _word().finditer(text)]


@cache
def _word() -> re.Pattern[str]:
    """The pattern of a word, built on first use, since that inspects 130,000 code points."""
    codes = [code for plane in PLANES for code in plane]
    marks = _class(code for code in codes if unicodedata.category(chr(code)) in ("Mn", "Mc", "Me", "Cf"))
    letters = rf"[^\W{UNSPACED}](?:[^\W{UNSPACED}]|[{marks}])*"
    return re.compile(rf"{letters}(?:(?!['’]s\b)[-‐‑'’.&]{letters})*|\S[{marks}]*")


def _class(codes: Iterable[int]) -> str:
    """Format sorted code points as the inside of a character class."""
    codes = list(codes)
    starts = [code for before, code in pairwise([-1, *codes]) if code != before + 1]
    ends = [code for code, after in pairwise([*codes, -1]) if after != code + 1]
    return "".join(f"\\U{start:08x}-\\U{end:08x}" for start, end in zip(starts, ends, strict=True))

"""The words of a text that is just a text, the same for every tokenizer, in training and serving alike."""

import re
import unicodedata
from collections.abc import Iterable
from functools import cache
from itertools import pairwise

Span = tuple[int, int]
"""Characters of a text, from start to before end."""
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Chinese characters
)
"""Scripts that set no blanks between words: there each letter is a word, or a sentence would be."""
PLANES = (range(0x20000), range(0xE0000, 0xE0200))
"""The code points among which all marks and joiners are."""


def words(text: str) -> list[Span]:
    """Where the words of a text are: what is labelled, whatever the tokenizer.

    Letters, digits and underscores, also with one of -'’.& between (O'Brien, U.S, co-op, 3.5); any other character that
    is no blank by itself; each with the accents and joiners that follow it.
    """
    return [match.span() for match in _word().finditer(text)]


@cache
def _word() -> re.Pattern[str]:
    """Made when it is first asked for: it takes a look at 130,000 code points."""
    codes = [code for plane in PLANES for code in plane]
    marks = _class(code for code in codes if unicodedata.category(chr(code)) in ("Mn", "Mc", "Me", "Cf"))
    letters = rf"[^\W{UNSPACED}](?:[^\W{UNSPACED}]|[{marks}])*"
    return re.compile(rf"{letters}(?:[-‐‑'’.&]{letters})*|\S[{marks}]*")


def _class(codes: Iterable[int]) -> str:
    """Code points, in order, as the inside of a character class."""
    codes = list(codes)
    starts = [code for before, code in pairwise([-1, *codes]) if code != before + 1]
    ends = [code for code, after in pairwise([*codes, -1]) if after != code + 1]
    return "".join(f"\\U{start:08x}-\\U{end:08x}" for start, end in zip(starts, ends, strict=True))

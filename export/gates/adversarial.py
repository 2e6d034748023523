"""Adversarial texts, which break what was only tried on well-behaved ones; every export must handle them."""

from bertline.tasks.tokens import Text

CHARACTERS = 100_000
"""The length of the longest texts."""
LONGEST = (
    ("Łódź, naïve façade: 3.14 of 2,718 co-op's e-mails; déjà-vu… " * CHARACTERS)[:CHARACTERS],
    "x" * CHARACTERS,
)
"""One text of many words, and one that is a single word."""
SHORT = (
    "",
    "a",
    " ",
    " \n\t\r\n  \u00a0\u3000",
    "   blanks  on\tboth \n sides   ",
    "9" * 400,
    "Ab" * 60,
    "...!!!???",
    "👩\u200d👩\u200d👧\u200d👦 🇩🇪 👍🏽 🏴\U000e0067\U000e0062\U000e007f ❤\ufe0f",
    "שלום עולם, مرحبا بالعالم",
    "\u202eright to left\u202c and \u2066isolated\u2069",
    "漢字かな交じり文と한국어와ภาษาไทยและاردو",
    "é e\u0301 Å A\u030a İstanbul ıI ß ﬁ ① ㎏ Ⅷ",
    "Z" + "\u0351\u036b\u0353\u036a\u0302" * 20 + "algo",
    "\x00\x01\x07\x08\x1b[31mcontrol\x7f\x85\u2028\u2029",
    "zero\u200bwidth\u00adand\ufeffmarks\u2060",
    "\ue000 \ufffd \uffff \U0010ffff 𝕸𝖆𝖙𝖍 𐍈",
    "[CLS] [SEP] [PAD] [MASK] [UNK] <s> </s> <pad> <mask> <unk> <|endoftext|> [unused1] ##ing ▁a Ġb",
    'https://example.org/?q=%20&x=1#top <b>bold</b> {"a": [1, 2]} C:\\temp\\new',
    "l'État, c'est moi: don't, won't, it's 5 o'clock",
)
SURROGATES = ("\ud800", "half of an emoji \ud83d", "\udc00\ud800 the wrong way round")
"""Lone surrogates, which JSON can encode but which are not valid text."""


def texts(paired: bool) -> list[Text]:
    """All valid texts, single or combined into pairs, which include an empty pair and one with an empty second text."""
    singles = [*SHORT, *LONGEST]
    if not paired:
        return [(text, None) for text in singles]
    return [("", ""), ("which?", ""), *zip(singles, [*singles[2:], *singles[:2]], strict=True)]


def surrogates(paired: bool) -> list[Text]:
    """Texts that must be refused; in pairs, each occurs in either place."""
    if not paired:
        return [(text, None) for text in SURROGATES]
    return [pair for text in SURROGATES for pair in ((text, "b"), ("a", text))]

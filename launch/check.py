"""`bertline check`: what a recipe's data contains, and what the model will see."""

from typing import Any

from rich.console import Console
from rich.table import Table

from bertline.export import choose
from bertline.export.choose import Score
from bertline.export.options import MAX_DROP


def show(found: dict[str, Any]) -> None:
    """Print a survey: counts, lengths, examples as the model reads them, and warnings."""
    screen = Console(highlight=False, markup=False, emoji=False)  # data is shown as it is
    screen.print(_counts(found))
    tokens = found["tokens"]
    screen.print(
        f"tokens of a training text: {tokens['p50']:,} (median), {tokens['p90']:,} (90 %), {tokens['p99']:,} (99 %), "
        f"{tokens['max']:,} (longest); {tokens['longer_share']:.1%} have more than max_length {tokens['max_length']:,}"
    )
    if found["provable_drop"] is not None:
        screen.print(_provable(found["examples"]["validation"], found["provable_drop"]))
    for example in found["shown"]:
        windows = f", the first of {example['windows']} windows" if example["windows"] > 1 else ""
        cut = ", cut off" if example["truncated"] else ""
        screen.print(f"\n{_words(example['gold'])}  ({example['tokens']} tokens{windows}{cut})")
        screen.print(f"  {example['read']}")
    for warning in found["warnings"]:
        screen.print(f"\nwarning: {warning}")


def _provable(examples: int, drop: float) -> str:
    """One sentence on what the validation split can prove about an export."""
    same = Score.flawless(examples, drop)
    more = f"; {choose.enough(same, MAX_DROP)} for {MAX_DROP:g}" if choose.doubt(same, MAX_DROP) else ""
    return f"validation: {examples:,} examples; export cannot show a drop below {same.provable_drop:g}{more}"


def _words(gold: Any) -> str:
    """The gold answer of an example: a label or number as it is; entities and answers by their text."""
    if not isinstance(gold, list):
        return _shown(str(gold))
    return ", ".join(_shown(one) if isinstance(one, str) else _span(one) for one in gold) or "nothing"


def _shown(label: str) -> str:
    """A label, quoted if blanks would be lost on the screen."""
    return label if label == " ".join(label.split()) else repr(label)


def _span(span: dict[str, Any]) -> str:
    return f"{span['text']} ({span['label']})" if "label" in span else str(span["text"])


def _counts(found: dict[str, Any]) -> Table:
    """Examples and labels, one column per split."""
    splits = list(found["examples"])
    table = Table(title=found["task"])
    table.add_column()
    for split in splits:
        table.add_column(split, justify="right")
    table.add_row("examples", *(f"{found['examples'][split]:,}" for split in splits))
    labelled = found["labels"]  # unlabelled texts are last, with empty cells
    for label in sorted({label for counts in labelled.values() for label in counts}):
        table.add_row(_shown(label), *(f"{labelled[split].get(label, 0):,}" for split in splits if split in labelled))
    return table

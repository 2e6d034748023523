"""The fidelity gates: before anything is quantized, the fp32 graph must answer as PyTorch does.

Real texts of mixed lengths and adversarial ones must be read as transformers reads them, token for token. The graph
must give PyTorch's logits, and neither padding nor the order in a batch may change its answers.

Cost: PyTorch answers every text once, each graph twice.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bertline.artifacts.bundle import Fidelity
from bertline.artifacts.errors import BertlineError, GateError
from bertline.artifacts.sequences import evenly_spaced
from bertline.artifacts.task import TaskSettings
from bertline.bench.worker import Worker
from bertline.export.gates import adversarial, tokenization
from bertline.export.sources import Origin
from bertline.models.transformers_tokens import Reading
from bertline.serve.engine import Engine
from bertline.serve.runtimes import Runtime
from bertline.tasks.task import Output, Task, windows_by_text
from bertline.tasks.tokens import Encoded, Text, Tokenizer

TEXTS = 256
WORDS = (1, 3, 6, 12, 24, 48, 96, 192, 1000)
"""The numbers of words that texts are cut to, in turn: from a single word to more than any model has positions for."""
WINDOWS = 8
"""The most windows computed per text: half from its beginning, half from its end."""
BATCH = 4
"""The most windows in a batch: with more, most of it would be padding."""
ATTENTION = BATCH * 2048**2
"""The most pairs of tokens that attend to one another in a batch: memory grows with their number.

BERT-base's 12 heads take 0.8 GB for this many in fp32, and 12.9 GB for four windows of 8,192 tokens."""
MAX_ABS_LOGIT_DIFF = 1e-3
"""The largest allowed difference of a logit; of a number, in standard deviations of PyTorch's numbers if that is more.

A number has the user's unit: among prices of 20,000, the last bit of a float is more than 1e-3."""
ROUNDING = 1e-4
"""How far rounding alone may move a logit. An answer that changes within this distance was a tie."""


@dataclass(frozen=True)
class Asked:
    """The texts that every system answers."""

    task: Task
    tokenizer: Tokenizer
    texts: Sequence[Text]
    real: int
    """The number of the user's texts, which come before the adversarial ones."""
    read: Sequence[Encoded]
    """All windows of the texts, in order."""
    windows: Sequence[Encoded]
    """The windows that are computed."""

    @classmethod
    def of(cls, origin: Origin) -> "Asked":
        """The user's texts and adversarial ones, in the form that the task takes."""
        real = of_mixed_lengths(origin.texts, origin.settings)
        return cls.read_by(origin, real, adversarial.texts(len(origin.settings.inputs) == 2))

    @classmethod
    def read_by(cls, origin: Origin, real: Sequence[Text], hard: Sequence[Text]) -> "Asked":
        """The texts as the tokenizer of `origin` reads them."""
        tokenizer = origin.task.tokenizer(origin.tokenizer)
        read = tokenizer.encode([*real, *hard])
        return cls(origin.task, tokenizer, [*real, *hard], len(real), read, few(read))

    def engine(self, runtime: Runtime) -> Engine:
        """An engine that answers with that runtime."""
        return Engine(self.task, self.tokenizer, runtime)

    def place(self, text: int) -> str:
        """A text's number and beginning, for a message."""
        return f"text {text + 1} ({self.texts[text][0]!r:.60})"


@dataclass(frozen=True)
class Found:
    """How far a graph's logits are from PyTorch's, and from its own in other batches."""

    to_pytorch: float
    by_padding: float
    fault: str | None
    """Why the graph does not pass, to follow its name; None if it does."""


@dataclass(frozen=True)
class Expected:
    """What PyTorch is asked, and computes while the model is converted."""

    asked: Asked
    reading: Callable[[], Reading]
    """Waits for how transformers reads the texts asked."""
    computed: Asked
    """The texts whose outputs are compared: those asked that have the same tokens with the served vocabulary."""
    outputs: Callable[[], list[Output]]
    """Waits for PyTorch's outputs for the windows computed."""
    served: Asked
    """The same texts as the served tokenizer reads them."""


def expect(origin: Origin, served: Origin, reference: Worker) -> Expected:
    """Ask PyTorch, in the background, for all that the gates compare with.

    Args:
        origin: the model that PyTorch computes.
        served: the model that is converted: the same, or with a smaller vocabulary.
        reference: the PyTorch worker.

    Raises:
        GateError: the tokenizer accepts a text that is not valid.
    """
    asked = Asked.of(origin)
    tokenization.refusal(asked.tokenizer, adversarial.surrogates(len(origin.settings.inputs) == 2))
    reading = reference.read_later(asked.texts)
    computed, other = (asked, asked) if served is origin else read_alike(asked, origin, served)
    return Expected(asked, reading, computed, reference.alone_later(computed.windows), other)


def gates(expected: Expected, workers: Sequence[Worker]) -> tuple[Fidelity, list[str]]:
    """Compare graphs with PyTorch. The first, the converted one, must pass; the others may fail.

    Returns:
        The differences measured for the first graph, and the faults of the others.

    Raises:
        GateError: texts are not read as transformers reads them, or the first graph's logits differ from PyTorch's, or
            its answers differ between batches.
    """
    asked, computed = expected.asked, expected.computed
    tokens = tokenization.gate(asked.tokenizer, asked.texts, asked.read, expected.reading())
    pytorch = expected.outputs()
    first = hold(expected.served, pytorch, workers[0])
    if first.fault:
        raise GateError(f"the fp32 ONNX model {first.fault}; no bundle was made")
    proof = Fidelity(
        max_abs_logit_diff=first.to_pytorch,
        max_abs_padding_diff=first.by_padding,
        texts=computed.real,
        adversarial_texts=len(computed.texts) - computed.real,
        tokens_compared=tokens,
    )
    faults = [_fault(expected.served, pytorch, worker) for worker in workers[1:]]
    return proof, [fault for fault in faults if fault]


def _fault(asked: Asked, pytorch: Sequence[Output], worker: Worker) -> str | None:
    """Why a graph does not pass, to follow its name. One that cannot run, or not in this memory, does not either."""
    try:
        return hold(asked, pytorch, worker).fault
    except BertlineError as error:
        return f"cannot run: {error}"


def read_alike(asked: Asked, origin: Origin, served: Origin) -> tuple[Asked, Asked]:
    """The texts that have the same tokens with both vocabularies, as each of the two tokenizers reads them.

    All of the user's texts do: `vocabulary.trim` proves it.
    """
    other = served.task.tokenizer(served.tokenizer)
    alike = [spelled(asked.tokenizer, text) == spelled(other, text) for text in asked.texts]
    kept = [text for text, same in zip(asked.texts, alike, strict=True) if same]
    real = sum(alike[: asked.real])
    return Asked.read_by(origin, kept[:real], kept[real:]), Asked.read_by(served, kept[:real], kept[real:])


def spelled(tokenizer: Tokenizer, text: Text) -> list[list[str | None]]:
    """The tokens of each window of a text, as strings."""
    return [[tokenizer.token(int(index)) for index in window.input_ids] for window in tokenizer.encode([text])]


def hold(asked: Asked, pytorch: Sequence[Output], runtime: Runtime) -> Found:
    """Compare a graph's outputs for single windows with PyTorch's, and with its own in shuffled batches."""
    engine = asked.engine(runtime)
    alone = engine.outputs(asked.windows)
    together = engine.outputs_of(asked.windows, shuffled([len(one.input_ids) for one in asked.windows]))
    to_pytorch, by_padding = differences(asked, pytorch, alone), differences(asked, alone, together)
    allowed, fault = largest_allowed(asked.task, pytorch), None
    if not by_padding.max() <= allowed:
        largest = _largest(asked, by_padding, allowed)
        fault = f"gives other logits when texts are padded or batched differently: {largest}"
    elif not to_pytorch.max() <= allowed:
        fault = f"differs from the PyTorch model: {_largest(asked, to_pytorch, allowed)}"
    elif changed := [text for text in changes(asked, alone, together) if by_padding[text] > ROUNDING]:
        fault = f"gives other answers when texts are padded or batched differently: {asked.place(changed[0])}"
    return Found(float(to_pytorch.max()), float(by_padding.max()), fault)


def largest_allowed(task: Task, pytorch: Sequence[Output]) -> float:
    """MAX_ABS_LOGIT_DIFF in the unit of PyTorch's outputs."""
    if task.settings.problem_type != "regression":
        return MAX_ABS_LOGIT_DIFF
    return MAX_ABS_LOGIT_DIFF * max(1.0, float(np.std(np.concatenate(pytorch), dtype=np.float64)))


def differences(asked: Asked, ones: Sequence[Output], others: Sequence[Output]) -> npt.NDArray[np.float64]:
    """The largest |Δlogit| of each text over all its windows, (texts,); NaN if any output is NaN."""
    windows = [float(np.abs(one - other).max()) for one, other in zip(ones, others, strict=True)]
    return np.array(
        [np.max([windows[index] for index in own]) for own in windows_by_text(len(asked.texts), asked.windows)]
    )


def changes(asked: Asked, ones: Sequence[Output], others: Sequence[Output]) -> list[int]:
    """The indices of the texts that the two sequences of outputs answer differently."""
    both = (asked.task.decode(asked.texts, asked.windows, outputs) for outputs in (ones, others))
    comparable = asked.task.comparable
    return [index for index, (one, other) in enumerate(zip(*both, strict=True)) if comparable(one) != comparable(other)]


def shuffled(lengths: Sequence[int]) -> list[list[int]]:
    """Indices of windows of these lengths in batches of at most BATCH, in a fixed random order.

    Batches of long windows are smaller, so that none exceeds ATTENTION unless a single window does.
    """
    batches: list[list[int]] = [[]]
    for index in np.random.default_rng(0).permutation(len(lengths)).tolist():
        batch = [*batches[-1], index]
        if len(batch) > BATCH or len(batch) * max(lengths[one] for one in batch) ** 2 > ATTENTION:
            batches.append([index])
        else:
            batches[-1] = batch
    return [batch for batch in batches if batch]


def few(windows: Sequence[Encoded]) -> list[Encoded]:
    """At most WINDOWS windows of each text."""
    kept: list[Encoded] = []
    for own in windows_by_text(windows[-1].text + 1, windows):
        some = own if len(own) <= WINDOWS else own[: WINDOWS // 2] + own[-WINDOWS // 2 :]
        kept += [windows[index] for index in some]
    return kept


def of_mixed_lengths(given: Sequence[Text], settings: TaskSettings) -> list[Text]:
    """The user's texts, cut to mixed lengths.

    Both texts of a pair are cut to several times the maximum length: the tokenizers library, set up to truncate pairs
    as transformers does, otherwise builds every combination of the overflows of both.
    """
    mixed = mixed_lengths(given)
    if settings.task != "text-classification":
        return mixed
    most = 16 * settings.tokens.max_length
    return [(text, None) if pair is None else (text[:most], pair[:most]) for text, pair in mixed]


def mixed_lengths(texts: Sequence[Text], count: int = TEXTS) -> list[Text]:
    """`count` texts cut to WORDS in turn; if there are fewer texts, each is cut to several lengths."""
    texts = evenly_spaced(texts, count)
    cuts = []
    for index in range(count):
        turn, which = divmod(index, len(texts))
        words = WORDS[(which + turn) % len(WORDS)]
        text, pair = texts[which]
        cuts.append((cut(text, words), None if pair is None else cut(pair, words)))
    return cuts


def cut(text: str, words: int) -> str:
    """The first `words` words."""
    return " ".join(text.split()[:words])


def _largest(asked: Asked, found: npt.NDArray[np.float64], allowed: float) -> str:
    hard = len(asked.texts) - asked.real
    return (
        f"largest |Δlogit| {found.max():.3g} on {asked.real} texts and {hard} adversarial ones, at "
        f"{asked.place(int(found.argmax()))}; at most {allowed:g} is allowed"
    )

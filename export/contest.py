"""The contest: times all candidates in turns, then scores them on the examples, best first, until one passes.

Candidates slower than the first that passes are not scored: most of the time goes into those that can win.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from statistics import geometric_mean

import numpy as np

from bertline.artifacts import machine
from bertline.artifacts.bundle import Cascade, Packing
from bertline.artifacts.errors import FULL, BertlineError, GateError, one_line
from bertline.artifacts.say import Say
from bertline.bench import compare
from bertline.bench.compare import Point
from bertline.bench.systems import System
from bertline.bench.worker import Worker
from bertline.export import choose
from bertline.export.candidates import cascade
from bertline.export.candidates.builder import CandidateBuilder
from bertline.export.candidates.plans import Plan, dynamic
from bertline.export.choose import Trial
from bertline.export.conversion.graphs import Graph
from bertline.export.examples import Judge, ask, count_answers
from bertline.export.options import ExportOptions
from bertline.export.sources import Origin
from bertline.export.systems import system
from bertline.export.teacher import Teacher
from bertline.tasks import bootstrap
from bertline.tasks.task import Counts, Output
from bertline.tasks.tokens import Encoded

ROUNDS = 3
SHARES = (0.125, 0.375, 0.625, 0.875)
"""The middles of four equal parts of the texts, from the shortest to the longest."""
FP32_SHARES = (0.25, 0.5)
"""The shares of the layers that stay in fp32 when no candidate passes."""


@dataclass(frozen=True)
class ContestResult:
    """The chosen candidate, and what was measured of all."""

    trials: list[Trial]
    chosen: Trial
    others: list[Trial]
    """Candidates sealed beside the chosen one, for machines that cannot use it."""
    graphs: dict[str, Graph]
    """The graphs by candidate name."""
    baseline: float
    """PyTorch's value of the metric."""
    pytorch: dict[str, float]
    """PyTorch's median milliseconds by BATCHxLENGTH, timed in turns with the chosen candidate."""
    pytorch_bytes: int
    """The size of PyTorch's weights."""
    notices: list[str]
    packing: Packing | None = None
    """How the chosen model packs short texts; None if that was not measured, or does not pay."""


class Contest:
    """The candidates, each with its process and what was measured of it so far."""

    _judge: Judge
    """Scores the candidates; set once PyTorch has answered."""

    def __init__(
        self,
        origin: Origin,
        reference: Worker,
        answered: Callable[[], list[Output]],
        builder: CandidateBuilder,
        options: ExportOptions,
        say: Say,
        teacher: Teacher | None = None,
    ) -> None:
        """Prepare a contest; nothing is made or measured yet.

        Args:
            origin: the model that candidates are made from, and the examples.
            reference: the PyTorch model whose answers candidates are compared with.
            answered: waits for its outputs for the examples.
            builder: makes the candidates.
            options: the options of the export.
            say: receives progress messages.
            teacher: the teacher, if `origin` is a student; `reference` then runs the teacher's model.
        """
        self.origin, self.builder, self.options, self.say = origin, builder, options, say
        self._reference, self._answered = reference, answered
        self._teacher = teacher
        self._outputs: dict[Path, list[Output]] = {} if teacher is None else teacher.outputs
        self._windows = origin.task.tokenizer(origin.tokenizer).encode(origin.texts)
        """The tokenized examples, the same for all candidates."""
        self._grid = grid(self._windows, options.batch)
        # a cascade is compared with other students, which were measured in other exports
        self._rounds = 1 if options.quick and builder.asked is None else ROUNDS
        self._graphs: dict[str, Graph] = {}
        self._trials: dict[str, Trial] = {}
        self._beside: dict[str, dict[str, float]] = {}
        """PyTorch's medians, timed in turns with each candidate."""
        self._workers: dict[str, Worker] = {}
        self._comparisons: dict[str, int] = {} if teacher is None else teacher.comparisons.setdefault(origin.place, {})
        self._first_comparison = 1
        self._notices: list[str] = []
        self._counts: dict[str, Counts] = {}
        """By candidate, the counts that its scores are computed from."""

    def hold(self, plans: Sequence[Plan]) -> ContestResult:
        """Make, time and score candidates until the best one that passes is known, leaving out any that fail to run.

        Raises:
            BertlineError: PyTorch or fp32, which the others are compared with, failed to run.
            GateError: no candidate passes (the message holds a table of those tried), or the examples are too few for
                any to pass.
        """
        with ExitStack() as processes:
            self._make(plans, processes)  # most quantizers compute on one core: PyTorch answers meanwhile
            self._judge = Judge.of(self.origin, self.options, self._reference.system, self._answered())
            if suspicion := self._judge.suspicion:
                self._notices.append(suspicion)
                self.say(f"note: {suspicion}")
            self._time(plans, self._rounds)
            asked = self.builder.asked
            chosen = self._choose_alone(processes) if asked is None else self._choose_cascade(asked, processes)
            if chosen is None:
                none = f"no candidate is shown to lose at most {self.options.max_drop:g}; no bundle was made. Tried:"
                table = choose.table(list(self._trials.values()), self.options)
                raise GateError("\n".join([none, table, *self._notices]))
            others = self._choose_others(chosen)
            if self.options.prefer == "accuracy":
                self._score("fp32")  # for comparison only, and last: if it fails, the next must meet a stricter bound
        return self._outcome(self._trials[chosen.plan.name], others)

    def _outcome(self, chosen: Trial, others: list[Trial]) -> ContestResult:
        return ContestResult(
            trials=list(self._trials.values()),
            chosen=chosen,
            others=others,
            graphs=self._graphs,
            baseline=self._judge.baseline,
            pytorch=self._beside[chosen.plan.name],
            pytorch_bytes=self._reference.system.size_bytes,
            notices=self._notices,
        )

    def _time(self, plans: Sequence[Plan], rounds: int) -> None:
        """Time the candidates made from the plans in turns with PyTorch; if one fails, time the others again."""
        made = [plan for plan in plans if plan.name in self._workers]
        workers = [self._workers[plan.name] for plan in made]
        try:
            timed = compare.time([self._reference, *workers], self.origin.texts, self._grid, rounds, self.say)
        except BertlineError as error:
            self._drop(error)
            self._time(plans, rounds)
        else:
            for plan, worker, points in zip(made, workers, timed[1:], strict=True):
                self._trials[plan.name] = Trial(plan, worker.system.size_bytes, p50_ms(points))
                self._beside[plan.name] = p50_ms(timed[0])

    def _make(self, plans: Sequence[Plan], processes: ExitStack) -> None:
        """Make candidates and let each answer one text; a failing quantizer or runtime costs a notice, not the export.

        Raises:
            OSError: the disk is full, which is no quantizer's fault.
        """
        for plan in plans:
            self.say(f"{plan.name}: making")
            try:
                graph = self.builder.make(plan)
                worker = self._start(system(self.origin, graph, plan.cascade), processes)
            except Exception as error:  # third-party quantizers may raise anything
                if plan.name == "fp32" or (isinstance(error, OSError) and error.errno in FULL):
                    raise
                why = f"{type(error).__name__}: {one_line(error):.200}"
                self._notices.append(f"not tried: {plan.name}: it cannot be made ({why})")
                self.say(self._notices[-1])
            else:
                self._graphs[plan.name], self._workers[plan.name] = graph, worker

    def _start(self, candidate: System, processes: ExitStack) -> Worker:
        """A candidate's process, once it has answered one text; it ends if that fails."""
        with ExitStack() as own:
            worker = own.enter_context(Worker(candidate, machine.cores()))
            worker.outputs(self.origin.texts[:1])
            processes.push(own.pop_all())
        return worker

    def _drop(self, error: BertlineError) -> None:
        """Leave out each candidate whose worker has failed, with a notice; re-raise if it cannot be done without.

        On a small machine the kernel kills processes when memory runs out: fewer candidates are better than none.
        """
        failed = [name for name, worker in self._workers.items() if worker.failed]
        if not failed or "fp32" in failed:
            raise error
        self._notices.append(f"left out: {error}")
        self.say(self._notices[-1])
        for name in failed:
            self._workers.pop(name).close()
            self._trials.pop(name, None)

    def _choose_alone(self, processes: ExitStack) -> Trial | None:
        """The best candidate that passes; if none does, the best of those that are slower but lose less."""
        chosen = self._best(lambda plan: plan.quantized, self._is_given_up)
        if chosen is None and not self._is_given_up():
            self._retry_mixed_precision(processes)
            chosen = self._best_preferring_quantized()
        return chosen

    def _best_preferring_quantized(self, fit: Callable[[Plan], bool] = lambda plan: True) -> Trial | None:
        """The best quantized candidate that fits and passes; if there is none, the best of any kind."""
        return self._best(lambda plan: plan.quantized and fit(plan)) or self._best(fit)

    def _best(self, fit: Callable[[Plan], bool], stop: Callable[[], bool] = lambda: False) -> Trial | None:
        """The best candidate that fits and passes, scoring no more than necessary; none if `stop` after a failure."""
        trials = [trial for trial in self._trials.values() if fit(trial.plan) and not choose.fault(trial, self.options)]
        if self.options.prefer == "accuracy":
            trials = list(self._measure_each(trials, self._answer))
            self._first_comparison = max(self._first_comparison, first_comparison(len(trials)))
        ordered = sorted(trials, key=lambda trial: choose.order(trial, self.options))
        for trial in self._measure_each(ordered, self._score):
            if not choose.fault(trial, self.options):
                return trial
            if stop():
                return None
        return None

    def _measure_each(self, trials: Iterable[Trial], measure: Callable[[str], Trial]) -> Iterator[Trial]:
        """Yield what `measure` returns for each trial, leaving out those whose worker fails."""
        for trial in trials:
            try:
                measured = measure(trial.plan.name)
            except BertlineError as error:
                self._drop(error)
            else:
                yield measured

    def _answer(self, name: str) -> Trial:
        """The trial, with its answers' agreement with PyTorch's; they are computed once."""
        if name not in self._counts:
            self.say(f"{name}: answering {len(self.origin.texts):,} texts")
            outputs = self._workers[name].outputs(self.origin.texts)
            answers = self.origin.task.decode(self.origin.texts, self._windows, outputs)
            self._counts[name] = bootstrap.count_units(self.origin.task, self.origin.examples, answers)
            both = self._judge.answers, answers
            agreement, distortion = self.origin.task.agreement(*both), self.origin.task.distortion(*both)
            self._trials[name] = replace(self._trials[name], agreement=agreement, distortion=distortion)
        return self._trials[name]

    def _score(self, name: str) -> Trial:
        """The trial, with its score; counts as one more comparison against the same labels."""
        trial = self._answer(name)
        if trial.score is None:
            score = self._judge.score(self._counts[name], self._comparison(name))
            self._trials[name] = trial = replace(trial, score=score)
        return trial

    def _comparison(self, name: str) -> int:
        """The number of this candidate's comparison, as `bootstrap.drop_interval` takes it."""
        return self._comparisons.setdefault(name, self._next_comparison)

    @property
    def _next_comparison(self) -> int:
        """Only those that failed count: the error that a comparison may spend is still there if it succeeds
        (Wiens, "A fixed sequence Bonferroni procedure for testing multiple endpoints", 2003).
        """
        return len(self._comparisons) - sum(map(self._is_shown, self._comparisons)) + self._first_comparison

    def _is_shown(self, name: str) -> bool:
        """Whether a candidate has been shown to lose no more than it may."""
        trial = self._trials.get(name)
        return trial is not None and trial.score is not None and not choose.doubt(trial.score, self.options.max_drop)

    def _retry_mixed_precision(self, processes: ExitStack) -> None:
        """If fp32 passes alone, try other calibrations, and leave the most sensitive layers in fp32."""
        failed = [trial for trial in self._trials.values() if trial.score and trial.plan.quantized]
        if not failed or self.options.only:
            return
        if self._passes_in_fp32():
            self.say("none passes: trying candidates that are slower, but lose less")
            fastest = min(failed, key=lambda trial: trial.milliseconds).plan
            slower = [plan for plan in remedies(fastest) if plan.name not in self._trials]
            self._make(slower, processes)
            self._time(slower, self._rounds)

    def _is_given_up(self) -> bool:
        """Whether it is a student that would not even pass in fp32, so that no quantized candidate is expected to."""
        return self._teacher is not None and not self._passes_in_fp32()

    def _passes_in_fp32(self) -> bool:
        """Whether fp32 would pass as the next candidate to be scored; it is not counted as one."""
        self._answer("fp32")
        return self._judge.passes(self._counts["fp32"], self._next_comparison)

    def _choose_cascade(self, asked: Graph, processes: ExitStack) -> Trial | None:
        """The fastest candidate, asking a larger model whenever it is unsure; None if that does not pass either.

        No candidate is scored alone: the student is already known not to pass.
        """
        tried = [trial for trial in self._trials.values() if trial.plan.quantized]
        tried = [trial for trial in tried if trial.plan.runtime == "onnxruntime"]
        if not tried:
            return None
        fastest = min(tried, key=lambda trial: trial.milliseconds)
        plan = fastest.plan
        speedup = geometric_mean(self._beside[plan.name].values()) / fastest.milliseconds
        if self._teacher and speedup <= self._teacher.to_beat:  # a cascade takes at least its student's own time
            alone = f"{plan.name} alone is {speedup:.1f} times as fast as PyTorch, the larger model alone"
            raise GateError(
                f"{alone} {self._teacher.to_beat:.1f} times: a cascade cannot be faster; no bundle was made"
            )
        with Worker(system(self.origin, asked), machine.cores()) as larger:
            answered = ask(larger, self.origin.texts, self._outputs, self.say)()
        student, name = self._workers[plan.name], f"{plan.name}-cascade"
        try:
            own = student.outputs(self.origin.texts)
        except BertlineError as error:
            self._drop(error)
            return self._choose_cascade(asked, processes)
        comparison = self._comparison(name)
        found = cascade.lowest(
            own,
            answered,
            lambda outputs: self._judge.passes(count_answers(self.origin, self._windows, outputs), comparison),
        )
        if found is None:
            return None
        both = Cascade(**found._asdict(), student=plan.name, larger=asked.name)
        asking = [replace(plan, name=name, cascade=both)]
        self._make(asking, processes)
        self._time(asking, ROUNDS)  # it is compared with other students
        return self._best(lambda plan: plan.cascade is not None)

    def _choose_others(self, chosen: Trial) -> list[Trial]:
        """The candidates to seal beside the chosen one: for ONNX Runtime, and for every CPU class."""
        wanted: list[Callable[[Plan], bool]] = []
        if self.options.portable and not chosen.plan.right_everywhere:
            wanted = [lambda plan: plan.right_everywhere]
            if chosen.plan.runtime != "onnxruntime":
                wanted.insert(0, lambda plan: plan.runtime == "onnxruntime")
        elif chosen.plan.runtime != "onnxruntime":
            wanted = [lambda plan: plan.runtime == "onnxruntime"]
        found = [self._best_preferring_quantized(fit) or self._fp32_or_refusal(chosen) for fit in wanted]
        return list({trial.plan.name: trial for trial in found}.values())

    def _fp32_or_refusal(self, chosen: Trial) -> Trial:
        """The fp32 graph, which answers as PyTorch does, for the machines that cannot use the chosen candidate.

        Raises:
            GateError: it exceeds --max-size; or it is a student's and loses too much itself.
        """
        fallback = f"{chosen.plan.name} does not run on every machine, and the only candidate left that does, fp32,"
        if large := choose.too_large(self._trials["fp32"], self.options):
            portable = " or leave out --portable" if self.options.portable else ""
            raise GateError(f"{fallback} has {large}; raise --max-size{portable}")
        if self._teacher is None:
            return self._trials["fp32"]
        scored = self._score("fp32")
        if scored.score and (doubt := choose.doubt(scored.score, self.options.max_drop)):
            raise GateError(f"{fallback} {doubt}; raise --max-drop")
        return scored


def first_comparison(ranked: int) -> int:
    """The number of the first comparison of candidates that were ranked by their answers to the same examples.

    The first of them is the luckiest: each may spend only 1/`ranked` of the error (Bonferroni), and of that half, since
    slower candidates may follow that are ranked as well.
    """
    return next(number for number in count(1) if number * (number + 1) >= 2 * ranked)


def remedies(plan: Plan) -> list[Plan]:
    """Candidates that may pass although this one does not."""
    kept = [replace(plan, name=f"{plan.name}-mixed-{share * 100:.0f}", fp32_share=share) for share in FP32_SHARES]
    if plan.method == "dynamic" and plan.reduce_range:
        return [dynamic(signed=False, fused=plan.fused), *kept]  # eight bits instead of seven
    if plan.method != "static":
        return kept
    other = [replace(plan, name=f"int8-static-{how}", calibration=how) for how in ("entropy", "percentile")]
    return [*other, *kept]


def grid(windows: Sequence[Encoded], batch: int) -> list[tuple[int, int]]:
    """The points (batch, length) to time: the middle lengths of each quarter of the texts, singly and in a batch."""
    lengths = [len(one.input_ids) for one in windows]
    profile = sorted({int(length) for length in np.quantile(lengths, SHARES)})
    return [(count, length) for count in sorted({1, batch}) for length in profile]


def p50_ms(points: Sequence[Point]) -> dict[str, float]:
    """Median milliseconds by BATCHxLENGTH, rounded to the microsecond."""
    return {f"{point.batch}x{point.length}": round(point.p50_ms, 3) for point in points}

"""Every encoder with every task, tiny and random: two steps of training, export with its gates, and answers.

bert with every task, and electra, whose bundles other tests open; each other encoder with one task in turn, and the
rest by `make test-matrix`.
"""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bertline.artifacts import bundle
from bertline.artifacts.errors import InputError
from bertline.artifacts.run import RunFolder, read_summary
from bertline.export.gates import adversarial
from bertline.serve.engine import Engine
from tests import encoders
from tests.e2e import tiny
from tests.train.conftest import losses

EXTRA = [("bert", problem) for problem in tiny.LABELS if problem not in tiny.TASKS]
"""Which problem a classifier is for is nothing to the encoder: one will do."""
UNSUPPORTED = {("modernbert", "question-answering"): "optimum does not convert 'modernbert' for question-answering"}
"""What the libraries do not do, and what is said of it."""
EVERY = [*itertools.product(encoders.ENCODERS, tiny.TASKS), *EXTRA]
USUAL = {
    *((encoder, tiny.TASKS[number % len(tiny.TASKS)]) for number, encoder in enumerate(encoders.ENCODERS)),
    *((encoder, task) for encoder, task in EVERY if encoder in ("bert", tiny.TRITON)),
    *UNSUPPORTED,
}


@pytest.mark.parametrize(
    ("encoder", "task"), [pytest.param(*one, marks=() if one in USUAL else pytest.mark.matrix) for one in EVERY]
)
def test_the_line(
    encoder: str, task: str, tiny_run: Callable[[str, str], RunFolder], tiny_bundle: Callable[[str, str], Path]
) -> None:
    run = tiny_run(encoder, task)
    assert len(losses(run)) == 2
    assert np.isfinite(losses(run)).all()
    if (encoder, task) in UNSUPPORTED:
        with pytest.raises(InputError, match=UNSUPPORTED[encoder, task]):
            tiny_bundle(encoder, task)
        return
    folder = tiny_bundle(encoder, task)
    manifest = bundle.verify(folder)
    proof = manifest.fidelity
    assert max(proof.max_abs_logit_diff, proof.max_abs_padding_diff) <= 1e-3
    assert (proof.texts, proof.adversarial_texts) == (256, len(adversarial.texts(len(manifest.inputs) == 2)))
    assert proof.tokens_compared > 256 * 5
    assert manifest.alone == read_summary(run.path).alone
    assert (manifest.runtime.opset, manifest.runtime.ir_version) == (18, 8)
    engine = Engine.load(folder)
    examples = engine.task.read_file(run.split("validation"))
    answers = engine.predict([example.texts for example in examples])
    assert len(answers) == len(examples) == 30
    assert engine.task.score(examples, answers)[manifest.metric] == pytest.approx(manifest.value, abs=1e-6)

"""Floor 3: loads a bundle and answers texts. Needs numpy, tokenizers and a runtime, nothing heavier.

>>> from bertline.serve import load                             # doctest: +SKIP
>>> model = load("bundles/demo")                                # doctest: +SKIP
"""

from bertline.serve.answers import Classification, Entities, Entity, MultiLabel, QuestionAnswer, Regression, Span
from bertline.serve.model import Model, load

__all__ = [
    "Classification", "Entities", "Entity", "Model", "MultiLabel", "QuestionAnswer", "Regression", "Span", "load",
]  # fmt: skip

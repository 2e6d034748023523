"""Which of the searched keys mattered: the share of the scores' variance that each explains, by functional ANOVA.

Of every trial that ran at all the score on the first fold is taken: the trials given up have no other, and scores on
different folds are not to be compared. https://automl.github.io/fanova
"""

from pathlib import Path

import optuna
from optuna import Study
from optuna.importance import FanovaImportanceEvaluator, get_param_importances

from bertline.artifacts import files
from bertline.artifacts.recipe_schema import Recipe
from bertline.bench.report import plots

ENOUGH = 8
"""Trials. Of fewer, a forest of trees learns chance."""
COLORS = (
    ":root{--ink:#1b2330;--faint:#c3cad4;--c1:#2f6fdf;background:#fff}"
    "@media(prefers-color-scheme:dark){:root{--ink:#e6eaf0;--faint:#465162;--c1:#6ea2ff;background:#181e27}}"
)


def draw(study: Study, recipe: Recipe, path: Path) -> str:
    """Draw the importances, if the trials tell them; returns what came of it in words."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.user_attrs.get("folds")]
    scores = [trial.user_attrs["folds"][0] for trial in trials]
    if len(trials) < ENOUGH:
        return f"which keys mattered is not drawn: {len(trials)} trials do not tell, {ENOUGH} might"
    first = optuna.create_study()
    for trial, score in zip(trials, scores, strict=True):
        first.add_trial(optuna.trial.create_trial(params=trial.params, distributions=trial.distributions, value=score))
    try:
        shares = get_param_importances(first, evaluator=FanovaImportanceEvaluator(seed=recipe.training.seed))
    except RuntimeError:  # of scores that are equal, or differ by next to nothing
        return "which keys mattered is not drawn: all trials score alike"
    bars = [plots.Bar(key, 1, share, f"{share:.0%}") for key, share in shares.items()]
    title = f"variance of {recipe.metric}, {len(trials)} trials"
    files.write_text(path, _alone(plots.bars("importance", [(title, bars)])))
    return f"which keys mattered: {path}"


def _alone(svg: str) -> str:
    """A plot of the report as a file of its own, with the names and colors that a page gives it."""
    opening, _, rest = svg.partition(">")
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f"{opening} {names}><style>{COLORS}</style>{rest}\n"

"""Which of the searched keys mattered: the share of the scores' variance that each explains, by functional ANOVA.

Every trial is represented by its score on the first fold: pruned trials may have no other, and scores on different
folds are not comparable. https://automl.github.io/fanova
"""

from pathlib import Path

import optuna
from optuna import Study
from optuna.importance import FanovaImportanceEvaluator, get_param_importances

from bertline.artifacts import files
from bertline.artifacts.recipe_schema import Recipe
from bertline.bench.report import plots

ENOUGH = 8
"""Trials needed; from fewer, a forest of trees learns noise."""
COLORS = (
    ":root{--ink:#1b2330;--faint:#c3cad4;--c1:#2f6fdf;background:#fff}"
    "@media(prefers-color-scheme:dark){:root{--ink:#e6eaf0;--faint:#465162;--c1:#6ea2ff;background:#181e27}}"
)


def draw(study: Study, recipe: Recipe, path: Path) -> str:
    """Draw the importances if there are enough trials to tell them; returns a line that says what was done."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.user_attrs.get("folds")]
    scores = [trial.user_attrs["folds"][0] for trial in trials]
    if len(trials) < ENOUGH:
        return f"importance.svg is not drawn: {len(trials)} trials are too few, at least {ENOUGH} are needed"
    first = optuna.create_study()
    for trial, score in zip(trials, scores, strict=True):
        first.add_trial(optuna.trial.create_trial(params=trial.params, distributions=trial.distributions, value=score))
    try:
        shares = get_param_importances(first, evaluator=FanovaImportanceEvaluator(seed=recipe.training.seed))
    except RuntimeError:  # the scores are equal, or all but equal
        return "importance.svg is not drawn: all trials score alike"
    bars = [plots.Bar(key, 1, share, f"{share:.0%}") for key, share in shares.items()]
    title = f"variance of {recipe.metric}, {len(trials)} trials"
    files.write_text(path, _alone(plots.bars("importance", [(title, bars)])))
    return f"which keys mattered: {path}"


def _alone(svg: str) -> str:
    """A plot of the report as a standalone file, with the namespaces and colors that the page would supply."""
    opening, _, rest = svg.partition(">")
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f"{opening} {names}><style>{COLORS}</style>{rest}\n"

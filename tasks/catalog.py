"""All tasks, by name."""

from bertline.artifacts.task import TaskName, TaskSettings
from bertline.tasks.question_answering import QuestionAnswering
from bertline.tasks.task import Task
from bertline.tasks.text_classification import TextClassification
from bertline.tasks.token_classification import TokenClassification

TASKS: dict[TaskName, type[Task]] = {
    "text-classification": TextClassification,
    "token-classification": TokenClassification,
    "question-answering": QuestionAnswering,
}


def make(settings: TaskSettings) -> Task:
    """The task of a run or bundle."""
    return TASKS[settings.task](settings)

"""Refusals, answered with 4xx or 503: a sentence for people, which names neither a file path nor an exception."""


class RefusedError(Exception):
    """A request that is refused.

    Args:
        status: HTTP status.
        sentence: what is wrong and what to do.
        retry_after: seconds after which a retry makes sense.
    """

    def __init__(self, status: int, sentence: str, retry_after: int | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.retry_after = retry_after

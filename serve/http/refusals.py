"""What is answered with 4xx or 503: a sentence for a person that names no path and no exception."""


class RefusedError(Exception):
    """A request that is not answered.

    Args:
        status: of HTTP.
        sentence: what was found and what would do.
        retry_after: seconds after which trying again makes sense.
    """

    def __init__(self, status: int, sentence: str, retry_after: int | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.retry_after = retry_after

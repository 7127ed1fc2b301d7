"""The two ways in which things go wrong. Each message is one sentence that a user may read."""


class Unavailable(Exception):
    """A service does not do its part: which one, at which address, and what to check."""


class Refused(Exception):
    """What was sent cannot be used: what is wrong with it and what to do."""

    def __init__(self, message: str, status: int = 422) -> None:
        super().__init__(message)
        self.status = status

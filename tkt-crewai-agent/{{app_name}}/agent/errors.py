"""The two ways in which things go wrong. Each message is one sentence that a user may read."""

from collections import Counter

FAILURES: Counter[str] = Counter()
"""How often each service has failed since the process began."""


class Unavailable(Exception):
    """A service does not do its part: which one, at which address, and what to check."""

    def __init__(self, message: str, service: str = "") -> None:
        """With a `service` the failure counts as its: qdrant, model, embedding, keycloak."""
        super().__init__(message)
        if service:
            FAILURES[service] += 1


class Refused(Exception):
    """What was sent cannot be used: what is wrong with it and what to do."""

    def __init__(self, message: str, status: int = 422, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s

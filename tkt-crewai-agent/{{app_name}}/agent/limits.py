"""How much one user may ask for: requests a minute, answers at once, uploads an hour.

Counted in this process, by user or key; where nobody signs on there is no one to count by, and no
limit. What was counted is forgotten at a restart; with several replicas each counts for itself.
The clock is one that nobody can set: with the other, one set back would lock everybody out.
"""

import math
import time

from agent.access import User
from agent.errors import Refused
from agent.runs import Runs

KEPT = 10_000
"""Users that are remembered; the one who was silent for longest is forgotten first."""


class Bucket:
    """`amount` in `seconds`, all of it at once or evenly: it fills up again as time goes by."""

    def __init__(self, amount: int, seconds: int) -> None:
        self._amount, self._seconds = amount, seconds
        self._left: dict[str, tuple[float, float]] = {}  # user: what is left, and since when

    def take(self, user: str, amount: int) -> int:
        """0, or the seconds to wait until `amount` is there."""
        now = time.monotonic()
        left, since = self._left.pop(user, (float(self._amount), now))
        left = min(self._amount, left + (now - since) * self._amount / self._seconds)
        missing = min(amount, self._amount) - left  # what is larger than all waits for all
        self._left[user] = (left, now) if missing > 0 else (left - amount, now)
        if len(self._left) > KEPT:
            del self._left[next(iter(self._left))]
        return math.ceil(missing * self._seconds / self._amount) if missing > 0 else 0


class Limits:
    """The limits of one process; 0 is no limit."""

    def __init__(self, requests_a_minute: int, runs: int, upload_mb_an_hour: int) -> None:
        self._requests = Bucket(requests_a_minute, 60) if requests_a_minute else None
        self._bytes = Bucket(upload_mb_an_hour * 2**20, 3600) if upload_mb_an_hour else None
        self._allowed = {
            "requests": f"{requests_a_minute} requests a minute",
            "runs": f"{runs} answers and uploads at once",
            "upload": f"{upload_mb_an_hour} MiB of uploads an hour",
        }
        self._runs = runs
        self.refused = dict.fromkeys(self._allowed, 0)

    def request(self, user: User) -> None:
        """Count one request; `Refused` with 429 when it is one too many."""
        self._take("requests", self._requests, user, 1)

    def upload(self, user: User, size: int) -> None:
        """Count `size` bytes."""
        self._take("upload", self._bytes, user, size)

    def run(self, user: User, runs: Runs) -> None:
        """Whether one more answer or upload may begin."""
        if self._runs and user.id and runs.running(user.id) >= self._runs:
            self._refuse("runs", 5)

    def _take(self, kind: str, bucket: Bucket | None, user: User, amount: int) -> None:
        if bucket and user.id and (wait_s := bucket.take(user.id, amount)):
            self._refuse(kind, wait_s)

    def _refuse(self, kind: str, wait_s: int) -> None:
        self.refused[kind] += 1
        sentence = f"You have reached the limit of {self._allowed[kind]}; try again in {wait_s} s."
        raise Refused(sentence, 429, wait_s)

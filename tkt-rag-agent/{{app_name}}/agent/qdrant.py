"""What the store asks of Qdrant, in the words that its two forms share.

Points have an id, a payload and named vectors (`dense`, `sparse`). `where` and `unless` name
payload fields and the values that they must or must not have. Dense and sparse hits are fused in
the engine, with its default reciprocal-rank constant (2) and the same number of candidates on each
side, so that the embedded engine and the server give the same passages for the same question.
"""

from dataclasses import dataclass
from typing import Any

Sparse = tuple[list[int], list[float]]
Where = dict[str, list[str]]
Payload = dict[str, Any]

INDEXED = ("kind", "document", "version")
"""Fields that are filtered by: without an index a filtered search reads every point."""


@dataclass(frozen=True)
class Point:
    id: str
    payload: Payload
    sparse: Sparse | None = None
    dense: list[float] | None = None


def candidates(limit: int) -> int:
    """Hits that each side offers for fusion."""
    return max(50, 4 * limit)


class Words:
    """Conditions and vectors, built from the classes that both of Qdrant's packages name alike."""

    def __init__(self, package: Any) -> None:
        self._package = package

    def filter(self, where: Where, unless: Where) -> Any:
        return self._package.Filter(must=self._match(where), must_not=self._match(unless))

    def vectors(self, point: Point) -> dict[str, Any]:
        vectors: dict[str, Any] = {"dense": point.dense} if point.dense else {}
        return vectors | ({"sparse": self.sparse(point.sparse)} if point.sparse else {})

    def sparse(self, sparse: Sparse) -> Any:
        return self._package.SparseVector(indices=sparse[0], values=sparse[1])

    def _match(self, fields: Where) -> list[Any]:
        match = self._package.MatchAny
        return [
            self._package.FieldCondition(key=field, match=match(any=values))
            for field, values in fields.items()
        ]

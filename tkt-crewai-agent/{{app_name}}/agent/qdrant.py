"""What the store asks of Qdrant, in the words that its two forms share.

Points have an id, a payload and named vectors: `sparse` and `dense` of a passage, `about` of a
document. `where` and `unless` name payload fields and the values that they must or must not have.
Only what both engines give alike is asked for, so that they find the same passages.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Sparse = tuple[list[int], list[float]]
Where = dict[str, list[str]]
Payload = dict[str, Any]

BRIEF = ["document", "version", "number"]
"""What is read of each of the many points that a search looks through; the text is not."""
INDEXED = ("kind", "document", "version")
"""Fields that are filtered by: without an index a filtered search reads every point."""


@dataclass(frozen=True)
class Point:
    id: str
    payload: Payload
    sparse: Sparse | None = None
    dense: list[float] | None = None
    about: Sparse | None = None


@dataclass(frozen=True)
class Search:
    """The `limit` points nearest to `vector` by the vectors named `using`."""

    using: str
    vector: Sparse | list[float]
    limit: int
    words: bool = False
    """Whether the words of the passages found are wanted as well."""


@dataclass(slots=True)
class Row:
    """A point that was found, with those `BRIEF` fields of its payload that it has."""

    id: Any
    score: float
    payload: Payload
    words: Sequence[int] = ()

    def scored(self, score: float) -> "Row":
        return Row(self.id, score, self.payload, self.words)


class Words:
    """Conditions and vectors, built from the classes that both of Qdrant's packages name alike."""

    def __init__(self, package: Any) -> None:
        self._package = package

    def filter(self, where: Where, unless: Where) -> Any:
        return self._package.Filter(must=self._match(where), must_not=self._match(unless))

    def vectors(self, point: Point) -> dict[str, Any]:
        sparse = {"sparse": point.sparse, "about": point.about}
        vectors = {name: self.sparse(vector) for name, vector in sparse.items() if vector}
        return vectors | ({"dense": point.dense} if point.dense else {})

    def vector(self, search: Search) -> Any:
        return self.sparse(search.vector) if isinstance(search.vector, tuple) else search.vector

    def sparse(self, sparse: Sparse) -> Any:
        return self._package.SparseVector(indices=sparse[0], values=sparse[1])

    def row(self, point: Any) -> Row:
        words = point.vector["sparse"].indices if point.vector else ()
        return Row(point.id, getattr(point, "score", 0.0), point.payload, words)

    def _match(self, fields: Where) -> list[Any]:
        match = self._package.MatchAny
        return [
            self._package.FieldCondition(key=field, match=match(any=values))
            for field, values in fields.items()
        ]

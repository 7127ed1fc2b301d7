"""In which order passages are shown: both sides together, with their neighbours, and with words
that the same question finds in other documents."""

from collections import Counter
from collections.abc import Iterable, Sequence

from agent.naming import Usual
from agent.qdrant import Row, Sparse

NEIGHBOUR = 0.2
"""What a passage gets of the scores of the one before it and the one after it: clauses go on."""
WHOLE = 1.0
"""What a passage gets of its document's score, where all documents are searched."""
ELSEWHERE = 50
"""Other documents from which words are learned."""
LEARNED = 40
"""Words that are learned from them at most."""


def fuse(words: Sequence[Row], meaning: Sequence[Row]) -> list[Row]:
    """Both sides as one list, best first: each score as a share of its side's best, added up."""
    total: dict[str, float] = {}
    rows = {row.id: row for row in [*words, *meaning]}
    for side in filter(None, (words, meaning)):
        best = max(row.score for row in side)
        for row in side:
            total[row.id] = total.get(row.id, 0) + (row.score / best if best > 0 else 0)
    return sorted((rows[i].scored(s) for i, s in total.items()), key=lambda row: -row.score)


def of_documents(rows: Sequence[Row], about: Sequence[Row]) -> list[Row]:
    """The same passages, each helped by what the question has of its document as a whole."""
    best = max((row.score for row in about), default=1.0)
    share = {row.payload["document"]: row.score / best for row in about}
    helped = [row.scored(row.score + WHOLE * share.get(row.payload["document"], 0)) for row in rows]
    return sorted(helped, key=lambda row: -row.score)


def with_neighbours(rows: Sequence[Row]) -> list[Row]:
    """The same passages of one document, each helped by those right before and after it."""
    at = {row.payload["number"]: row.score for row in rows}

    def helped(row: Row) -> float:
        n = row.payload["number"]
        return row.score + NEIGHBOUR * (at.get(n - 1, 0) + at.get(n + 1, 0))

    return sorted((row.scored(helped(row)) for row in rows), key=lambda row: -row.score)


def learn(asked: Iterable[int], found: Sequence[Row], usual: Usual) -> Sparse:
    """The asked words, and those that answers to the same question hold in other documents.

    Of `found`, best first, the best passage of each document counts. The more documents there are,
    the more their words weigh, up to as much as those that were asked.
    """
    best: dict[str, Row] = {}
    for row in found:
        best.setdefault(row.payload["document"], row)
    rows = list(best.values())[:ELSEWHERE]
    held = Counter(word for row in rows for word in row.words)
    telling = sorted(held, key=lambda word: -held[word] * usual.rarity(word))[:LEARNED]
    weights = dict.fromkeys(asked, 1.0)
    most = max((held[word] for word in telling), default=1)
    for word in telling if len(rows) > 1 else ():
        weights[word] = weights.get(word, 0) + held[word] / most * len(rows) / ELSEWHERE
    return list(weights), list(weights.values())

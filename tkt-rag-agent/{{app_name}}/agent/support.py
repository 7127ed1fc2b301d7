"""Does a cited passage bear out a sentence of the answer, or refute it?

Compared are numbers, dates, names and negations. Each part of the sentence is laid beside the
sentences of the passage that say most of it; a fact of the one that the other gives otherwise is a
*doubt*. What the passage does not say at all is no refutation, but it is no support either.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache
from typing import Any

from agent import facts
from agent.split import sentences

SCOPE = 2
"""Words after a negation that it is taken to negate."""
ALIGNED = 0.5
"""Share of a clause's words that the other must hold for the two to say something of the same."""
STEM = 5
"""Letters by which two words count as the same: enough for endings."""
_TOKEN = re.compile(r"[A-Za-z][A-Za-z'\u2019-]*|\d[\d,.]*")
_STOP = (
    "a an the of to in on at by for from with and or but as is are was were be been being has "
    "have had do does did will would shall should can could may might must it its they them "
    "their he she his her him this that these those which who whom whose if then than so such "
    "any all each every there here not no nor never none neither without unless only also up "
    "out about into over under according states says section clause agreement"
)
_COMMON = "the of to and is are was were has have by for with must may will not that this"
NEGATIONS = "not no never none neither nor cannot without nobody nothing nowhere"
"""Words that turn a statement round."""
_STOPS, _NEGATING = frozenset(_STOP.split()), frozenset(NEGATIONS.split())
_COMMONEST = frozenset(_COMMON.split())
# Pairs of opposites: a stem and which side of the pair it is on.
OPPOSITES = [
    ("before prior advance", "after follow arrears"),
    ("allow permit", "forbid prohibit unlawful"),
    ("includ", "exclud except"),
    (
        "increas rise rose raise grow grew higher improv",
        "decreas fall fell reduc lower drop declin",
    ),
    ("above over exceed more greater longer upward", "below under less fewer short downward"),
    ("atleast", "atmost"),
    ("accept approv", "reject refus"),
    ("mandator compuls", "optional volunt"),
    ("open", "clos"),
    ("start begin begun began", "end ceas finish"),
    ("alway", "never"),
    ("inside within indoor", "outside outdoor"),
    ("win won", "lose lost"),
    ("first", "last"),
    ("earlier sooner", "later"),
    ("north", "south"),
    ("east", "west"),
    ("morning", "evening"),
    ("depart", "return arriv"),
    ("front", "back rear"),
    ("paid", "unpaid"),
    ("sooner earliest", "latest"),
    ("same", "differ"),
    ("temporar", "permanent"),
    ("public", "privat"),
    ("oldest", "youngest newest"),
    ("largest most biggest", "smallest least"),
    ("up", "down"),
    ("buy bought purchas", "sell sold sale"),
    ("lend lent", "borrow"),
    ("agree", "disagree"),
    ("present", "absent"),
    ("earliest", "latest"),
    ("refundable", "non-refundable"),
    ("exclusiv", "non-exclusiv"),
]


@dataclass(frozen=True)
class Doubt:
    """A fact of the answer that the passage gives otherwise."""

    kind: str
    said: str


def doubts(claim: str, passage: str) -> list[Doubt]:
    """What in `claim` the `passage` refutes; nothing of what it merely does not say."""
    claim = re.sub(r"^\s*(?:yes|no),\s+", "", facts.plain(claim), flags=re.IGNORECASE)
    passage = facts.plain(passage)
    found: list[Doubt] = []
    for part in _parts(claim):
        beside, alike = _beside(part, passage)
        found += _compare("number", facts.numbers, part, beside, passage, alike)
        found += _compare("date", facts.dates, part, beside, passage, alike)
        found += _names(part, beside, passage, alike)
        found += _turned(part, passage)
    return list(dict.fromkeys(found))


def shared(claim: str, passage: str) -> float:
    """Share of the claim's content words that the passage holds, 0 to 1; 1 of no words."""
    asked, held = _stems(claim), _stems(passage)
    return len(asked & held) / len(asked) if asked else 1


def is_english(text: str) -> bool:
    """Whether a text can be compared here: others have none of the commonest English words."""
    return bool(_COMMONEST & set(re.findall(r"[a-z]+", text.lower())))


def where(quote: str, text: str) -> tuple[int, int] | None:
    """Span of `text` that `quote` stands in: exactly, else spaces, case and quotation marks aside,
    else as the nearest stretch of the same length that is 0.85 alike; None where there is none."""
    at = text.find(quote)
    if at >= 0:
        return at, at + len(quote)
    folded = _folded(quote)
    spans = [(m.start(), m.end()) for m in re.finditer(r"\S+", text)]
    length = len(quote.split())
    best, span = 0.0, None
    for n in range(max(1, len(spans) - length + 1)):
        a, b = spans[n][0], spans[min(n + length, len(spans)) - 1][1]
        alike = SequenceMatcher(None, folded, _folded(text[a:b]), autojunk=False)
        if alike.real_quick_ratio() > best and (ratio := alike.ratio()) > best:
            best, span = ratio, (a, b)
    return span if best >= 0.85 else None


def _folded(text: str) -> str:
    text = re.sub(r"[\u2018\u2019\u201c\u201d\"']", "'", text.casefold())
    return " ".join(text.split())


def _stem(word: str) -> str:
    return word.lower().replace("\u2019", "'").removesuffix("'s")[:STEM]


@lru_cache(1000)  # the same passages stand beside every sentence of an answer
def _stems(text: str) -> frozenset[str]:
    words = (word.lower() for word in _TOKEN.findall(text))
    return frozenset(_stem(word) for word in words if word not in _STOPS and len(word) > 1)


def _parts(claim: str) -> list[str]:
    """The claim cut where a further statement begins."""
    cuts = re.split(r";\s+|,\s+(?:and|but|while|whereas)\s+|\s+(?:while|whereas|but)\s+", claim)
    return [part for part in cuts if _stems(part)] or [claim]


def _beside(part: str, passage: str) -> tuple[str, bool]:
    """The sentence of the passage that says most of `part`, by words that few others hold, and
    whether it says enough of it to be about the same."""
    texts = [passage[a:b] for a, b in sentences(passage)] or [passage]
    held = [_stems(text) for text in texts]
    asked = _stems(part)
    weight = {stem: 1 / (1 + sum(stem in h for h in held)) for stem in asked}
    best = max(range(len(texts)), key=lambda n: sum(weight[s] for s in asked & held[n]))
    return texts[best], len(asked & held[best]) >= ALIGNED * len(asked)


def _compare(
    kind: str,
    read: Callable[[str], Sequence[Any]],
    part: str,
    beside: str,
    passage: str,
    alike: bool,
) -> list[Doubt]:
    """Facts that stand nowhere, or elsewhere while another one like them stands in their place."""
    said, there = read(part), read(beside)
    found = []
    for fact in said:
        if any(fact.same(other) for other in there):
            continue
        rivals = [
            other
            for other in there
            if fact.comparable(other) and not any(other.same(mine) for mine in said)
        ]
        known = any(fact.same(other) for other in read(passage)) or _follows(fact, read(passage))
        if (alike and rivals) or not known:
            found.append(Doubt(kind, fact.said))
    return found


def _follows(fact: Any, known: Sequence[Any]) -> bool:
    """Whether a number may come from the others by one step: a sum, a difference, a share of one.
    A bare fraction is always taken to."""
    if not isinstance(fact, facts.Number):
        return False
    if fact.kind == "part":
        return True
    others = [n for n in known if n.kind == fact.kind]
    counts = [n.value for n in known if not n.kind and 1 < n.value <= 12]
    sums = [abs(a.value + sign * b.value) for a in others for b in others for sign in (1, -1)]
    shares = [a.value / count for a in others for count in counts]
    return any(abs(value - fact.value) <= fact.value / 1000 for value in [*sums, *shares] if value)


def _names(part: str, beside: str, passage: str, alike: bool) -> list[Doubt]:
    """Names that stand nowhere, or elsewhere while another one stands in their place."""
    low = passage.lower()
    everywhere = {name for name, _ in facts.names(passage)}
    near = _own_names(beside, passage)
    own = {name for name, _ in facts.names(part, passage)}
    found = []
    for name in sorted(own):
        if name.lower() not in low:
            if len(name) > 4 and name.endswith(("ish", "ese", "ian", "ench", "utch")):
                continue  # of a country, which has another name
            if not (_initials(name, passage) or _like(name, low)):
                found.append(Doubt("name", name))
            continue
        elsewhere = name in everywhere and name.lower() not in beside.lower()
        if elsewhere and alike and near - own and not _defined(name, passage):
            found.append(Doubt("name", name))
    return found


def _own_names(text: str, passage: str) -> set[str]:
    """Names that are not terms such as `the Tenant`, which may stand for one of them."""
    return {name for name, _ in facts.names(text, passage) if not _defined(name, passage)}


def _defined(name: str, passage: str) -> bool:
    return re.search(rf"\b[Tt]he {re.escape(name)}\b", passage) is not None


def _like(name: str, low: str) -> bool:
    """The same word with another ending."""
    stem = name.lower()
    return len(stem) > 4 and re.search(rf"\b{re.escape(stem[:-1])}\w{{0,2}}\b", low) is not None


def _initials(name: str, passage: str) -> bool:
    if not name.isupper() or len(name) < 2:
        return False
    letters = r"\w*\W+(?:of\W+|and\W+|the\W+|for\W+)?".join(name)
    return re.search(rf"\b{letters}", passage, re.IGNORECASE) is not None


def _turned(part: str, passage: str) -> list[Doubt]:
    """Statements that one of both makes and the other denies, and opposites."""
    for clause in _clauses(part):
        asked = _stems(clause)
        best = max(_clauses(passage), key=lambda other: len(asked & _stems(other)), default="")
        overlap = len(asked & _stems(best))
        if overlap < 2 or overlap < ALIGNED * len(asked):
            continue
        mine, theirs = _signs(clause), _signs(best)
        if mine.limits or theirs.limits:
            continue  # "only if" and "unless" turn a statement in ways that are not followed here
        denied = bool(mine.negated & _stems(best)) and not theirs.negations
        denies = bool(theirs.negated & asked) and not mine.negations
        opposite = sum(
            mine.sides[pair] != theirs.sides[pair] for pair in mine.sides.keys() & theirs.sides
        )
        if (denied + denies + opposite) % 2:
            return [Doubt("negation", clause.strip())]
    return []


@dataclass(frozen=True)
class _Signs:
    """What a clause negates, whether it limits, and its side of each pair of opposites."""

    negations: int
    negated: set[str]
    limits: bool
    sides: dict[int, int]


_IDIOMS = [
    (
        r"(?:no|not|never)(?: \w+){0,4}? "
        r"(?:more|longer|later|greater|higher|hotter|stronger|over) than|"
        r"not (?:to )?exceed(?:ing)?|up to|at (?:the )?most|the most|as (?:much|many|long) as|"
        r"(?:a )?maximum(?: of)?|capped at|limited to|within",
        " atmost ",
    ),
    (
        r"(?:no|not) (?:less|fewer|shorter|sooner|earlier) than|at (?:the )?least|"
        r"(?:a )?minimum(?: of)?",
        " atleast ",
    ),
    (
        r"(?:does|do|did|is|are|was|were|can|could|will|would|should|has|have|must|ca|wo)"
        r"n['\u2019]t|cannot",
        " not ",
    ),
    (
        r"unable to|not able to|refrain from|prohibit\w* from|forbid\w*|forbidden|prohibited|"
        r"not (?:allowed|permitted|entitled) to|barred from|banned from|fail\w* to|refus\w+ to|"
        r"declin\w+ to|instead of|rather than|free (?:of|from)|lack of",
        " not ",
    ),
]
"""Ways of saying a limit or a negation, and what they are counted as."""
_LIMITS = re.compile(r"\b(?:only|unless|except|other than|until|even|apart from|if)\b")
_CLAUSE = re.compile(
    r"[;:.]\s+|,\s+|\s+(?:but|while|whereas|although|though|and then|and)\s+(?=\w+\s+\w+)"
)


def _clauses(text: str) -> list[str]:
    return [clause for clause in _CLAUSE.split(text) if clause and clause.strip()]


@lru_cache(1000)
def _signs(clause: str) -> _Signs:
    text = clause.lower()
    for pattern, token in _IDIOMS:
        text = re.sub(rf"\b(?:{pattern})", token, text)
    words = re.findall(r"[\w'\u2019-]+", text)
    negations, negated, reach = 0, set(), 0
    for word in words:
        if word in _NEGATING:
            negations, reach = negations + 1, SCOPE
        elif reach and word not in _STOPS:
            negated.add(_stem(word))
            reach -= 1
    sides: dict[int, int] = {}
    for word in words:
        if pair := _pair(word):
            sides.setdefault(*pair)
    return _Signs(negations, negated, bool(_LIMITS.search(text)), sides)


@lru_cache(10_000)
def _pair(word: str) -> tuple[int, int] | None:
    for n, (one, other) in enumerate(OPPOSITES):
        for side, stems in ((1, one), (-1, other)):
            for stem in stems.split():
                if word == stem or (len(stem) > 3 and word.startswith(stem)):
                    return n, side
    return None

"""Every sentence of an answer is checked as it ends, while the next ones still come.

A sentence that a cited passage refutes, or that none bears out, is not taken back, as it was seen
already: a note right behind it says what is wrong. So page, API and plain text all show it.
"""

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from agent.citations import CITATION, numbers
from agent.prompts import UNKNOWN
from agent.store import Hit
from agent.support import Doubt, doubts, is_english, shared, where

BORNE_OUT = 0.4
"""Share of a sentence's words that its passages must hold."""
FEW_WORDS = 3
"""A sentence of fewer words that could be looked up says nothing that needs a source."""

_END = re.compile(r"(?:[.!?][\"')\]*_]*(?:\s*\[\d+\])*\s+|\n+)(?=[^\s\[])")
_QUOTED = re.compile(r"[\"“]([^\"”]{15,400})[\"”]")


@dataclass
class Check:
    """What became of one sentence: `supported`, `refuted`, `unsupported`, or `plain` where there
    is nothing to check."""

    sentence: str
    status: str
    cited: list[int] = field(default_factory=list)
    doubts: list[Doubt] = field(default_factory=list)

    @property
    def note(self) -> str:
        """What the reader is told behind the sentence; empty where all is well."""
        if self.status == "refuted":
            said = ", ".join(dict.fromkeys(f"“{doubt.said}”" for doubt in self.doubts))
            return f" ⚠ *Not what the source says: {said}.*"
        return " ⚠ *No source found for this.*" if self.status == "unsupported" else ""

    def as_data(self) -> dict[str, Any]:
        return asdict(self)


async def checked(
    tokens: AsyncIterator[str], hits: Sequence[Hit], checks: list[Check], mark: bool = True
) -> AsyncIterator[str]:
    """The tokens, where `mark` with a note behind each sentence that fails; fills `checks`."""
    sentence, sent = "", 0  # blanks at the end wait, as a note would stand before them
    async for token in tokens:
        sentence += token
        while end := _END.search(sentence):
            whole, sentence = sentence[: end.end()], sentence[end.end() :]
            checks.append(check(whole, hits))
            text = whole.rstrip()
            note = checks[-1].note if mark else ""
            yield f"{text[sent:]}{note}{whole[len(text) :]}"
            sent = 0
        ready = len(sentence.rstrip())
        if ready > sent:
            yield sentence[sent:ready]
            sent = ready
    if sentence.strip():
        checks.append(check(sentence, hits))
        note = checks[-1].note if mark else ""
        if rest := f"{note}{sentence[sent:]}":
            yield rest


def check(sentence: str, hits: Sequence[Hit]) -> Check:
    """Hold one sentence against the passages that it cites, or where it cites none, against all."""
    cited = [n for match in CITATION.finditer(sentence) for n in numbers(match)]
    claim = CITATION.sub("", sentence).strip().lstrip("-*•# ")
    if (
        claim.strip("*_ ") == UNKNOWN
        or len(claim.split()) < FEW_WORDS
        or claim.endswith((":", "?"))
    ):
        return Check(claim, "plain", cited)
    texts = [f"{hit.heading or ''}\n{hit.text}" for hit in hits]
    beside = [texts[n - 1] for n in cited if n <= len(texts)] or texts
    passage = "\n".join(beside)
    if not (is_english(claim) and is_english(passage)):
        return Check(claim, "plain", cited)
    found = doubts(claim, passage)
    found += [
        Doubt("quote", quote)
        for quote in _QUOTED.findall(claim)
        if not any(where(quote, text) for text in beside)
    ]
    if found and cited:
        return Check(claim, "refuted", cited, found)
    borne_out = not found and shared(claim, passage) >= BORNE_OUT
    return Check(claim, "supported" if borne_out else "unsupported", cited)

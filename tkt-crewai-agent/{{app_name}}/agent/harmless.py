"""What text from elsewhere may not do: load something, act, hide something, pose as our own.

Documents can hold orders to the model, and a model can be talked into repeating them. An image in
an answer would be loaded by the program that shows it, and its address can carry away what the
model knows; characters that nobody sees can carry orders or data. So neither gets through.
"""

import re
from collections.abc import AsyncIterator

UNSEEN = re.compile(
    "[\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e01ef]"
    # Joiners belong between the letters of Persian or the parts of an emoji, one at a time.
    "|[\u200c\u200d]{2,}|(?<![^\x00-\x7f])[\u200c\u200d]|[\u200c\u200d](?![^\x00-\x7f])"
)
"""Zero-width characters, direction overrides, tags."""
_IMAGE = re.compile(r"!(?=\[)")
_TAG = re.compile(r"<(?=[a-z/!?])", re.IGNORECASE)
_SCRIPT = re.compile(r"(\]\(\s*)(?=(?:javascript|data|vbscript)\s*:)", re.IGNORECASE)
_SPECIAL = re.compile(r"[^\x00-\x7f]|[!<\]]")
_POSES = re.compile(
    r"^(?=\s*(?:system|user|assistant|human|question|answer|passages?|instructions?)\s*:"
    r"|\s*\[\d+\]|\s*<\|)",
    re.IGNORECASE | re.MULTILINE,
)
_OPEN = re.compile(r"[!<]+\Z|\]\(?[\sa-z]{0,12}\Z", re.IGNORECASE)
"""An end that may become an image, a tag or a link to a script with what comes next."""


def visible(text: str) -> str:
    """`text` without the characters that nobody sees."""
    return UNSEEN.sub("", text)


def quiet(text: str) -> str:
    """Markdown in which images are links, tags are text, and no link runs a script."""
    return _SCRIPT.sub(r"\1blocked:", _TAG.sub("&lt;", _IMAGE.sub("", text)))


async def harmless(tokens: AsyncIterator[str]) -> AsyncIterator[str]:
    """The tokens of an answer, visible and quiet; holds back an end that may become something."""
    held = ""
    async for token in tokens:
        if not held and not _SPECIAL.search(token):
            yield token
            continue
        held += visible(token)
        end = _OPEN.search(held)
        cut = end.start() if end else len(held)
        if ready := quiet(held[:cut]):
            yield ready
        held = held[cut:]
    if held:
        yield quiet(held)


def as_material(text: str) -> str:
    """A passage as the model reads it: a line of it that could pass for a turn of the talk, for the
    question or for another passage has a bar before it."""
    return _POSES.sub("| ", visible(text))

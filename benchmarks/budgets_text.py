"""Documents and questions made of nothing: always the same, with words as unequal as a text's."""

from random import Random

WORDS = 5000
"""The n-th is used about 1/n as often as the first, as in a language."""


def document(n: int, paragraphs: int) -> str:
    """The n-th document; a paragraph has about 540 characters."""
    return "\n\n".join(_paragraph(n * paragraphs + part) for part in range(paragraphs))


def question(n: int) -> str:
    """The n-th question, of words that some of the documents have."""
    draw = Random(f"question {n}")
    words = [_word(draw.randrange(20, 500)) for _ in range(4)]
    return f"What does clause {n} say about {', '.join(words)}?"


def _paragraph(n: int) -> str:
    draw = Random(n)
    said = " ".join(_word(int(WORDS ** draw.random())) for _ in range(65))
    return f"Clause {n}. The agreement of party {n % 97} says: {said} {n * 7919 % 100003} pounds."


def _word(rank: int) -> str:
    """Letters that nothing else has: "baceda"."""
    return "".join("bcdfghklmn"[int(digit)] + "aeiou"[int(digit) % 5] for digit in f"{rank:03}")

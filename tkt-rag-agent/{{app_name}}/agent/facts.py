"""The facts in a text that can be compared: numbers with their units, dates, names, negations.

Written for English. What is not recognised is not compared, so it neither helps nor harms.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache


def _list(words: str) -> list[str]:
    return words.split()


ONES = _list(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
)
TENS = _list("twenty thirty forty fifty sixty seventy eighty ninety")
SCALES = {
    "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "dozen": 12, "m": 10**6,
    "bn": 10**9, "k": 1000,
}  # fmt: skip
VALUES = {word: n for n, word in enumerate(ONES)} | {t: 20 + 10 * n for n, t in enumerate(TENS)}
FRACTIONS = {
    "half": "0.5", "third": "0.333", "quarter": "0.25", "fifth": "0.2", "tenth": "0.1",
    "three quarters": "0.75", "two thirds": "0.667",
}  # fmt: skip
ORDINALS = _list(
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
)
FEW = 2
"""Number words up to it, without a unit, are taken for counting."""
MONTHS = _list(
    "january february march april may june july august september october november december"
)
DAYS = _list("monday tuesday wednesday thursday friday saturday sunday")
# What is measured, in which unit, and how many of the smallest unit that is.
UNITS = {
    "money:gbp": {"£": 1, "gbp": 1, "pound": 1, "sterling": 1},
    "money:usd": {"$": 1, "usd": 1, "dollar": 1},
    "money:eur": {"€": 1, "eur": 1, "euro": 1},
    "money:pence": {"p": 1, "pence": 1, "penny": 1, "cent": 1},
    "share": {"%": 1, "percent": 1},
    "points": {"point": 1},
    "time": {
        "second": 1, "sec": 1, "s": 1, "minute": 60, "min": 60, "hour": 3600, "hr": 3600,
        "day": 86400, "week": 604800, "fortnight": 1209600,
    },
    "months": {"month": 1, "year": 12, "decade": 120},
    "mass": {"mg": 1, "milligram": 1, "g": 1000, "gram": 1000, "kg": 10**6, "kilogram": 10**6,
             "kilo": 10**6, "tonne": 10**9, "ton": 10**9},
    "length": {"mm": 1, "millimetre": 1, "cm": 10, "centimetre": 10, "m": 1000, "metre": 1000,
               "meter": 1000, "km": 10**6, "kilometre": 10**6},
    "miles": {"mile": 1}, "feet": {"foot": 1, "feet": 1}, "inches": {"inch": 1, "inche": 1},
    "volume": {"ml": 1, "millilitre": 1, "cl": 10, "l": 1000, "litre": 1000, "liter": 1000},
    "power": {"w": 1, "watt": 1, "kw": 1000, "kilowatt": 1000, "mw": 10**6},
    "volt": {"v": 1, "volt": 1}, "bar": {"bar": 1},
    "temperature": {"°c": 1, "celsius": 1, "degree": 1, "°": 1},
    "storage": {"mb": 1, "gb": 1000, "tb": 10**6},
}  # fmt: skip
_UNIT = {name: (kind, n) for kind, names in UNITS.items() for name, n in names.items()}
_DURATION = ("time", "months")

_NUMBER_WORD = "|".join([*VALUES, *(s for s in SCALES if len(s) > 2)])
_SPELT = rf"(?:{_NUMBER_WORD})(?:(?:[\s-]+(?:and\s+)?)(?:{_NUMBER_WORD}))*"
_QUANTITY = re.compile(
    rf"(?P<before>£|\$|€|\b(?:GBP|USD|EUR)\s?)?"
    rf"(?:\b(?P<part>three\s+quarters|two\s+thirds|half|(?:a|one)\s+(?:third|quarter|fifth|tenth))"
    rf"\b(?:\s+of)?(?:\s+an?)?|\b(?P<twice>twice)\b"
    rf"|(?P<digits>(?<![\w.])\d[\d,]*(?:\.\d+)?)|(?P<spelt>\b{_SPELT}\b))"
    rf"(?P<scale>[\s-]?(?:thousand|million|billion|dozen|bn|k)\b)?"
    rf"(?P<ordinal>st|nd|rd|th)?"
    rf"(?:[\s-]?(?P<unit>per\s?cent|%|°\s?C?|[A-Za-z]+))?(?=(?:\s(?P<later>[A-Za-z]+))?)",
    re.IGNORECASE,
)
_CLOCK = re.compile(r"\b(\d{1,2})[:.](\d\d)(?:\s?([ap])\.?m\b)?|\b(\d{1,2})\s?([ap])\.?m\b", re.I)
_REFERENCE = re.compile(
    r"\b(?:section|clause|article|paragraph|step|schedule|rule|annex|appendix|page|item|part)s?\s+"
    r"\d+(?:\.\d+)*(?:\s?\([a-z]\))?|^\s*(?:[-*•]|\(?\d{1,2}[.)])\s+|§\s?\d+(?:\.\d+)*",
    re.IGNORECASE | re.MULTILINE,
)
_PARTS = {"a half": "0.5", "a quarter": "0.25", "three-quarter": "0.75", "three-quarters": "0.75"}
_AND_PART = re.compile(rf"\b(\d+|{'|'.join(VALUES)}) and ({'|'.join(_PARTS)})\b", re.IGNORECASE)
_UNIT_AND_HALF = re.compile(r"\ban? (hour|day|week|month|year) and a half\b", re.IGNORECASE)
_MONTH = "|".join(f"{month}|{month[:3]}\\b\\.?" for month in MONTHS)
_YEAR = r"(?:1[5-9]|20)\d\d"
_DATE = re.compile(
    rf"\b(?P<y1>{_YEAR})-(?P<m1>\d\d)-(?P<d1>\d\d)\b"
    rf"|\b(?P<d2>\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?(?P<m2>{_MONTH})(?:,?\s+(?P<y2>{_YEAR}))?"
    rf"|\b(?P<m3>{_MONTH})\s+(?P<d3>\d{{1,2}})(?:st|nd|rd|th)?(?!\d)(?:,?\s+(?P<y3>{_YEAR}))?"
    rf"|\b(?P<m4>{'|'.join(MONTHS)})\b(?:,?\s+(?P<y4>{_YEAR}))?"
    rf"|\b(?P<d5>\d{{1,2}})/(?P<m5>\d{{1,2}})/(?P<y5>{_YEAR})"
    rf"|\b(?P<y6>{_YEAR})\b(?!\s?(?:(?:kg|g|km|m|ml|pounds|euros|dollars|people)\b|%))"
    rf"|\b(?P<w7>{'|'.join(DAYS)})s?\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Number:
    value: Decimal
    kind: str
    """What is measured; empty where no unit is known, `part` for a fraction, `clock` for a time."""
    bare: Decimal
    """The value as it was said, whatever its unit."""
    said: str

    def same(self, other: "Number") -> bool:
        if {self.kind, other.kind} == {"part", "share"}:
            return _near(self.value * self.unit_share, other.value * other.unit_share)
        if self.kind and other.kind and self.kind != other.kind:
            return False
        if self.kind == other.kind:
            return _near(self.value, other.value)
        return _near(self.bare, other.bare) or _near(self.value, other.value)

    @property
    def unit_share(self) -> Decimal:
        return Decimal(100 if self.kind == "part" else 1)

    def comparable(self, other: "Number") -> bool:
        money = self.kind[:5] == other.kind[:5] == "money"
        spans = self.kind in _DURATION and other.kind in _DURATION
        return self.kind == other.kind or money or spans


def _near(a: Decimal, b: Decimal) -> bool:
    return abs(a - b) <= max(abs(a), abs(b)) * Decimal("0.005")


@dataclass(frozen=True)
class Date:
    year: int
    month: int
    day: int
    weekday: str
    said: str
    start: int

    @property
    def parts(self) -> tuple[int | str, ...]:
        return self.year, self.month, self.day, self.weekday

    def same(self, other: "Date") -> bool:
        """No part that both give differs, and they share at least one."""
        pairs = [(a, b) for a, b in zip(self.parts, other.parts, strict=True) if a and b]
        return bool(pairs) and all(a == b for a, b in pairs)

    def comparable(self, other: "Date") -> bool:
        return any(a and b for a, b in zip(self.parts, other.parts, strict=True))


def plain(text: str) -> str:
    """The text without numbers that only count or refer: `3)`, `section 4.2`; `two and a half` and
    `a year and a half` as decimals."""
    text = _REFERENCE.sub(lambda match: " " * len(match.group()), text)
    text = _AND_PART.sub(lambda m: f"{_whole(m[1]) + Decimal(_PARTS[m[2].lower()])}", text)
    return _UNIT_AND_HALF.sub(r"1.5 \1s", text)


def _whole(text: str) -> Decimal:
    """A number of one word or of digits."""
    return Decimal(text) if text.isdigit() else Decimal(VALUES[text.lower()])


@lru_cache(500)  # passages come again and again
def dates(text: str) -> list[Date]:
    found = []
    for match in _DATE.finditer(text):
        part = {name[0]: value for name, value in match.groupdict().items() if value}
        if match.group() == "may" or (match.group() == "May" and set(part) == {"m"}):
            continue  # the verb
        if match.group() in ("march", "second"):
            continue
        month = part.get("m", "0").rstrip(".")
        number = int(month) if month.isdigit() else _month(month)
        found.append(
            Date(
                int(part.get("y", 0)),
                number,
                int(part.get("d", 0)),
                part.get("w", "").lower(),
                match.group(),
                match.start(),
            )
        )
    return found


def _month(name: str) -> int:
    return next(n for n, month in enumerate(MONTHS, 1) if month.startswith(name.lower()[:3]))


@lru_cache(500)
def numbers(text: str) -> list[Number]:
    """Quantities, without those that belong to dates."""
    text = _DATE.sub(lambda match: " " * len(match.group()), text)
    return list(_numbers(text))


def _numbers(text: str) -> Iterator[Number]:
    for match in _CLOCK.finditer(text):
        hour, minute = int(match[1] or match[4]), int(match[2] or 0)
        half = (match[3] or match[5] or "").lower()
        if match[1] and not half and ":" not in match.group():
            continue  # a decimal number
        at = Decimal((hour % 12 + 12 * (half == "p") if half else hour) * 60 + minute)
        yield Number(at, "clock", at, match.group())
        text = text.replace(match.group(), " " * len(match.group()), 1)
    for match in _QUANTITY.finditer(text):
        value = _value(match)
        if match["scale"]:
            value *= SCALES[match["scale"].strip("- ").lower()]
        if match["before"] and (match["unit"] or "").lower() == "m":
            value *= 10**6  # £1.2m
        kind, factor = _unit(match)
        if match["part"]:
            kind = kind or "part"
        if match["spelt"] and re.search(r"\bone in\s+(?:every\s+)?$", text[: match.start()], re.I):
            continue  # a share, said as "one in twenty"
        if not kind and (value == 1 or (match["spelt"] and value <= FEW)):
            continue  # "one of them", "both parties": counted, not quoted
        end = match.end("unit") if kind and not match["before"] else match.start("unit")
        said = text[match.start() : end] if match["unit"] else match.group()
        yield Number(value * factor, kind, value, said.strip(" -"))
    for n, word in enumerate(ORDINALS, 1):
        if n > 2 and re.search(rf"\b{word}\b(?!\s+of\s)", text, re.IGNORECASE):
            yield Number(Decimal(n), "", Decimal(n), word)


def _value(match: re.Match[str]) -> Decimal:
    if match["digits"]:
        return Decimal(match["digits"].replace(",", "").rstrip("."))
    if match["part"]:
        words = match["part"].lower().split()
        return Decimal(FRACTIONS[" ".join(word for word in words if word not in ("a", "one"))])
    if match["twice"]:
        return Decimal(2)
    total = current = 0
    for word in re.findall(r"[a-z]+", match["spelt"].lower()):
        if word in VALUES:
            current += VALUES[word]
        elif word in SCALES:
            scale = SCALES[word]
            current = max(current, 1) * scale
            if scale >= 1000:
                total, current = total + current, 0
    return Decimal(total + current)


def _unit(match: re.Match[str]) -> tuple[str, int]:
    if match["before"]:
        return _UNIT[match["before"].strip().lower()]
    if match["twice"]:
        return "", 1
    for found in (match["unit"], match["later"]):
        word = re.sub(r"\s", "", (found or "").lower())
        word = "%" if word == "percent" else word
        if unit := _UNIT.get(word) or (_UNIT.get(word.rstrip("s")) if len(word) > 2 else None):
            return unit
    return "", 1


_NAME = re.compile(r"\b[A-Z][\w&'\u2019-]*(?:\.[A-Z])*|\b[A-Z]{2,}[\w-]*|\b\w*\d+[A-Z]\w*")


@lru_cache(500)
def names(text: str, also: str = "") -> list[tuple[str, int]]:
    """Words with a capital that is not that of a sentence's beginning, and where they stand.

    A sentence's first word counts where `also` has it with a capital in mid-sentence.
    """
    starts = {0} | {m.end() for m in re.finditer(r"[.!?:;]['\")]*\s+|\n+|^\W+", text)}
    known = {name for name, at in (names(also) if also else [])}
    found = []
    for match in _NAME.finditer(text):
        word = re.sub(r"['\u2019]s?$", "", match.group())
        if (
            len(word) < 2
            or word.lower() in (*MONTHS, *DAYS)
            or word.upper() in ("GBP", "USD", "EUR")
        ):
            continue
        if (
            match.start() in starts
            and word not in known
            and not re.search(r"[A-Z0-9].*[A-Z0-9]", word)
        ):
            continue
        found.append((word, match.start()))
    return found

"""Arithmetic for agents: a model that counts in its head is often wrong.

simpleeval walks the expression; nothing here is run as Python. Every number on the way is held
small, so that whatever is accepted is done in milliseconds. Knows no names but pi and e, no texts,
no variables and no units.
"""

import ast
import math
import operator
import re
from collections.abc import Callable
from typing import Any

from simpleeval import EvalWithCompoundTypes, InvalidExpression  # type: ignore[import-untyped]

from agent.errors import Refused

MAX_CHARS = 2_000
"""An expression that a model writes by hand is shorter."""
MAX_BITS = 1_000
"""Whole numbers of some 300 digits, as far as floats reach; 9**9**9 has 370 million."""
MAX_PLACES = 300
"""`round` builds ten to the power of its second number."""

Number = int | float
_SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "\u00a0": " "})  # noqa: RUF001
# Where no number follows, % is no remainder: so 15% of 80, 80 * 15% and (10 + 5)% mean hundredths.
_PERCENT = re.compile(r"(?<=[\d)])\s{0,9}%(?=\s{0,9}(?:$|[),*/\]]|of\b))")
_OF = re.compile(r"(?<=/100)\s{1,9}of\b")
_EXPECTED = "use numbers, + - * / // % **, comparisons and the functions"


def calculate(expression: str) -> str:
    """The value of an expression such as `(1200 - 950) / 950 * 100`."""
    if len(expression) > MAX_CHARS:
        raise Refused(
            f"The expression is longer than {MAX_CHARS:,} characters; calculate in steps."
        )
    text = _OF.sub(" *", _PERCENT.sub("/100", expression.translate(_SIGNS).strip()))
    try:
        node = ast.parse(text, mode="eval").body
        return _written(_number(_evaluator().eval(text, node)))
    except Refused:
        raise
    except ZeroDivisionError:
        raise Refused("The expression divides by zero; check the numbers.") from None
    except OverflowError:
        raise _too_large() from None
    except (RecursionError, MemoryError):
        raise Refused("The expression is nested too deeply; calculate in steps.") from None
    except KeyError:  # simpleeval's, for `in` and `is`
        raise _not_understood("no such comparison", text) from None
    except SyntaxError as error:
        raise _not_understood(error.msg, text) from None
    except (InvalidExpression, TypeError, ValueError) as error:
        raise _not_understood(str(error), text) from None


def _advice(text: str) -> str:
    """What is often meant otherwise."""
    if "^" in text:
        return "write ** for a power"
    if re.search(r"\d,\d{3}(?!\d)", text):
        return "write 1200, not 1,200"
    return f"{_EXPECTED} {', '.join(FUNCTIONS)}"


def _not_understood(reason: str, text: str) -> Refused:
    reason = " ".join(reason.split())[:150].rstrip(".!")
    return Refused(f"The expression cannot be calculated ({reason}); {_advice(text)}.")


def _too_large() -> Refused:
    return Refused("A number in the expression is too large; calculate with smaller ones.")


def _number(value: object) -> Number:
    """`value` if it is a real number of a usable size."""
    if not isinstance(value, int | float):
        raise TypeError(f"{type(value).__name__} is no number")
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise _too_large()
    if isinstance(value, float) and not math.isfinite(value):
        raise _too_large()
    return value


def _written(value: Number) -> str:
    """As people write it: 0.1 + 0.2 is 0.3."""
    return format(value, ".15g") if isinstance(value, float) else str(value)


def _numbers(values: tuple[object, ...]) -> list[Number]:
    """The numbers of `sum(1, 2)` or `sum([1, 2])`."""
    found = [n for value in values for n in (value if isinstance(value, list) else [value])]
    return [_number(n) for n in found]


def _checked(act: Callable[..., Any]) -> Callable[..., Number]:
    """`act` on numbers alone, which gives a number."""
    return lambda *values: _number(act(*map(_number, values)))


def _power(base: Number, exponent: Number) -> Number:
    whole = isinstance(base, int) and isinstance(exponent, int)
    if whole and (int(base).bit_length() - 1) * exponent > MAX_BITS:  # before it is built
        raise _too_large()
    power: Any = base**exponent
    if isinstance(power, complex):
        raise ValueError("a root of a negative number")
    return _number(power)


def _round(value: Number, places: Number = 0) -> Number:
    if not isinstance(places, int) or abs(places) > MAX_PLACES:
        raise ValueError("round takes a number and how many places")
    return round(value, places) if places else round(value)


def _log(value: Number, base: Number = math.e) -> float:
    return math.log(value) if base == math.e else math.log(value, base)


OPERATORS: dict[type[ast.AST], Callable[..., Number]] = {
    ast.Add: _checked(operator.add),
    ast.Sub: _checked(operator.sub),
    ast.Mult: _checked(operator.mul),
    ast.Div: _checked(operator.truediv),
    ast.FloorDiv: _checked(operator.floordiv),
    ast.Mod: _checked(operator.mod),
    ast.Pow: _checked(_power),
    ast.USub: _checked(operator.neg),
    ast.UAdd: _checked(operator.pos),
    ast.Eq: _checked(operator.eq),
    ast.NotEq: _checked(operator.ne),
    ast.Lt: _checked(operator.lt),
    ast.LtE: _checked(operator.le),
    ast.Gt: _checked(operator.gt),
    ast.GtE: _checked(operator.ge),
}
FUNCTIONS: dict[str, Callable[..., Number]] = {
    "abs": _checked(abs),
    "round": _checked(_round),
    "min": lambda *values: min(_numbers(values)),
    "max": lambda *values: max(_numbers(values)),
    "sum": lambda *values: _number(sum(_numbers(values))),
    "sqrt": _checked(math.sqrt),
    "floor": _checked(math.floor),
    "ceil": _checked(math.ceil),
    "log": _checked(_log),
    "log10": _checked(math.log10),
    "exp": _checked(math.exp),
}
NAMES = {"pi": math.pi, "e": math.e}
_NODES = (ast.Constant, ast.Name, ast.UnaryOp, ast.BinOp, ast.Compare, ast.Call, ast.List)
"""All else that simpleeval knows stays away: attributes, indexes, texts, comprehensions."""


def _evaluator() -> Any:
    made = EvalWithCompoundTypes(operators=OPERATORS, functions=dict(FUNCTIONS), names=NAMES)
    made.functions = FUNCTIONS  # without the list, dict and set that it adds
    made.nodes = {kind: made.nodes[kind] for kind in _NODES}
    return made

"""What the doubles have in common: being told to fail, in the process or over HTTP."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.doubles.serve import until_gone


class Double:
    """`fail` is None or one of `failures`; `settable` and `counters` name attributes that
    `/_double` sets (POST, a JSON object) and shows (GET)."""

    failures: ClassVar[tuple[str, ...]] = ()
    settable: ClassVar[tuple[str, ...]] = ("fail",)
    counters: ClassVar[tuple[str, ...]] = ()

    def __init__(self, fail: str | None = None) -> None:
        self.fail = fail

    @property
    def fail(self) -> str | None:
        return self._fail

    @fail.setter
    def fail(self, how: str | None) -> None:
        if how is not None and how not in self.failures:
            raise ValueError(f"{how!r} is no failure of this double; it knows {self.failures}.")
        self._fail = how

    def control(self) -> Route:
        """The route of `/_double`."""
        return Route("/_double", self._control, methods=["GET", "POST"])

    async def _control(self, request: Request) -> Response:
        if request.method == "POST":
            try:
                self._set(await request.json())
            except ValueError as error:
                return JSONResponse({"error": str(error)}, 400)
        shown = {name: getattr(self, name) for name in self.settable}
        counted = {name: getattr(self, name) for name in self.counters}
        counted = {k: len(v) if isinstance(v, list) else v for k, v in counted.items()}
        text = json.dumps(shown | counted, default=str)  # a function has no JSON
        return Response(text, media_type="application/json")

    def _set(self, given: dict[str, Any]) -> None:
        if unknown := set(given) - set(self.settable):
            raise ValueError(f"{sorted(unknown)} cannot be set; {self.settable} can.")
        for name, value in given.items():
            setattr(self, name, value)


async def hang(request: Request) -> Response:
    """Say nothing until the client leaves."""
    await until_gone(request.receive)
    return Response()

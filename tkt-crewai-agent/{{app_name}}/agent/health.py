"""Is it alive, is it ready: `/health` asks nobody, `/ready` asks every service it leans on.

A platform that kills pods looks at `/health`, so a dependency that is down must not show there.
"""

import asyncio
from collections.abc import Awaitable, Callable

LIMIT_S = 3
"""A service that takes longer counts as down."""

Check = Callable[[], Awaitable[str]]


async def probe(checks: dict[str, Check | None]) -> dict[str, dict[str, bool | str]]:
    """Ask all at once; a check of None is a service that is not configured, and that is fine."""
    results = await asyncio.gather(*(_ask(check) for check in checks.values()))
    return dict(zip(checks, results, strict=True))


async def _ask(check: Check | None) -> dict[str, bool | str]:
    if check is None:
        return {"ok": True, "detail": "not configured"}
    try:
        return {"ok": True, "detail": await asyncio.wait_for(check(), LIMIT_S)}
    except TimeoutError:
        return {"ok": False, "detail": f"does not answer within {LIMIT_S} s"}
    except Exception as error:
        return {"ok": False, "detail": str(error)}

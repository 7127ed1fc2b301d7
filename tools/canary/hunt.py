"""Which packages' new releases make a check fail, in few tries.

It knows nothing of packages but their names: `fails` tells whether it fails with the newest
releases of a set of them, and today's of all others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Fails = Callable[[Sequence[str]], bool]
SINGLY = 3
"""So many are tried each by itself; a search by halves takes about seven tries for a hundred."""


def culprits(suspects: Sequence[str], fails: Fails) -> list[str]:
    """The least set that makes it fail, of those that do with all `suspects`, which come with the
    most suspicious first. [] when it does not fail with all of them, or not each time."""
    for name in suspects[:SINGLY]:
        if fails([name]):
            return [name]
    if not fails(suspects):
        return []
    found: list[str] = []
    while not found or not fails(found):
        name = _last_needed(suspects, found, fails)
        if name in found:
            return []
        found.append(name)
    return found


def _last_needed(suspects: Sequence[str], found: Sequence[str], fails: Fails) -> str:
    """The last name of the shortest beginning of `suspects` that fails together with `found`."""
    least, most = 0, len(suspects)  # it does not fail with `least` of them, and does with `most`
    while most - least > 1:
        middle = (least + most) // 2
        if fails([*found, *suspects[:middle]]):
            most = middle
        else:
            least = middle
    return suspects[most - 1]

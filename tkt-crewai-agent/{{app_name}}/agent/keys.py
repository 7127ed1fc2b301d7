"""Keys for clients that cannot sign in: `python -m agent.keys NAME` makes one.

A key is shown once and not kept. API_KEYS holds a name and a hash for each, so it may stand in
`app.env`; to revoke a key, take its entry out. The keys are random and long, so that a plain
SHA-256 is enough: there is nothing to guess.
"""

import hashlib
import hmac
import re
import secrets
import sys

PREFIX = "tka_"
_ENTRY = re.compile(r"([\w.-]+):([0-9a-f]{64})")


def parse(entries: str) -> dict[str, str]:
    """{name: hash} of entries `name:hash` with commas or spaces between; ValueError names a bad
    one."""
    keys = {}
    for entry in entries.replace(",", " ").split():
        found = _ENTRY.fullmatch(entry)
        if not found:
            raise ValueError(f"{entry[:30]!r} is no name:hash; python -m agent.keys makes one")
        keys[found[1]] = found[2]
    return keys


def name_of(keys: dict[str, str], key: str) -> str | None:
    """Whose key this is, None when it is nobody's."""
    given = digest(key)
    owners = [name for name, known in keys.items() if hmac.compare_digest(known, given)]
    return owners[0] if owners else None


def digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()


if __name__ == "__main__":
    if len(sys.argv) != 2 or not re.fullmatch(r"[\w.-]+", sys.argv[1]):
        sys.exit("Usage: python -m agent.keys NAME, where NAME says who will use the key.")
    made = PREFIX + secrets.token_urlsafe(32)
    print(f"The key, shown only now:   {made}")
    print(f"Its entry in API_KEYS:     {sys.argv[1]}:{digest(made)}")

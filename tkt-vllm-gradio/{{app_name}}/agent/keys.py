"""Keys for clients that cannot sign in: `python -m agent.keys NAME` makes one.

A key is shown once and not kept. API_KEYS holds a name and a hash for each, so it may stand in
`app.env`; to revoke a key, take its entry out. The keys are random and long, so that a plain
SHA-256 is enough: there is nothing to guess.
"""

import argparse
import hashlib
import hmac
import re
import secrets

PREFIX = "tka_"
_ENTRY = re.compile(r"([\w.-]+):([0-9a-f]{64})")


def parse(entries: str) -> dict[str, str]:
    """{name: hash} of entries `name:hash` with commas or spaces between; ValueError says which
    is none."""
    keys = {}
    for number, entry in enumerate(entries.replace(",", " ").split(), 1):
        found = _ENTRY.fullmatch(entry)
        if not found:  # not a word of it is said: it may be a key, put here by mistake
            raise ValueError(f"entry {number} is no name:hash; python -m agent.keys makes one")
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
    parser = argparse.ArgumentParser(
        prog="python -m agent.keys",
        description="Makes a key for a program that cannot sign on, and its entry for API_KEYS.",
    )
    parser.add_argument("name", help="who will use it: letters, digits and . _ -")
    name = parser.parse_args().name
    if not re.fullmatch(r"[\w.-]+", name):
        parser.error("a name has letters, digits and . _ - alone")
    made = PREFIX + secrets.token_urlsafe(32)
    print(f"The key, shown only now:   {made}")
    print(f"Its entry in API_KEYS:     {name}:{digest(made)}")

"""Ask from the command line: `python -m agent.ask "The text ..."`, or `-` for standard input."""

import argparse
import asyncio
import sys
from typing import Any

from agent.chain import Question, answer
from agent.services import connect
from agent.settings import read


async def main(text: str) -> dict[str, Any]:
    """Data of the last event."""
    services = connect(read())
    try:
        events = [event async for event in answer(services, Question(text))]
        return events[-1].data
    finally:
        await services.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m agent.ask", description="Summarises a text.")
    parser.add_argument("text", help="the text itself; - reads it from standard input")
    given = parser.parse_args().text
    done = asyncio.run(main(sys.stdin.read() if given == "-" else given))
    print(done.get("answer") or done["detail"])
    sys.exit(0 if "answer" in done else 1)

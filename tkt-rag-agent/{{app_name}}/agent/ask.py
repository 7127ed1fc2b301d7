"""Ask from the command line: `python -m agent.ask "When is the rent due?"`.

Prints the answer as it comes and the passages that it cites. When the app itself is running it has
the embedded documents open, so the question goes to its API instead.
"""

import argparse
import asyncio
import sys
import time
from typing import Any

import httpx

from agent.chain import Question, answer
from agent.errors import Unavailable
from agent.services import connect
from agent.settings import PRIVATE, Settings, read


def main(question: str) -> int:
    settings = read()
    try:
        if settings.documents == "private":
            raise Unavailable(f"{PRIVATE} Start the app, and set ASK_KEY to one of its keys.")
        done = asyncio.run(_in_process(settings, question))
    except Unavailable as error:
        done = _over_http(settings, question, error)
    print(done["answer"] if "answer" in done else done["detail"])
    for c in done.get("citations", []):
        place = f"page {c['page']}, " if c["page"] else ""
        print(f"\n[{c['n']}] {c['document']}, {place}characters {c['start']}-{c['end']}")
        print(f"    {c['quote']}")
    return 0 if done.get("answer") else 1


async def _in_process(settings: Settings, question: str) -> dict[str, Any]:
    services = connect(settings)
    try:
        await services.store.tend()
        events = [event async for event in answer(services, Question(question))]
        return events[-1].data
    finally:
        await services.close()


def _over_http(settings: Settings, question: str, error: Exception) -> dict[str, Any]:
    key = settings.ask_key.get_secret_value()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    app = f"http://127.0.0.1:{settings.port}"
    given: dict[str, Any] = {"headers": headers, "timeout": 60}
    try:
        reply = httpx.post(f"{app}/api/chat", json={"question": question}, **given)
        if reply.status_code == 401:
            sys.exit("The running app keeps strangers out: set ASK_KEY to one of its keys.")
        answer: dict[str, Any] = reply.raise_for_status().json()
        if reply.status_code != 202:
            return answer
        place = app + reply.headers["Location"]
        while (run := httpx.get(place, **given).json())["state"] == "running":
            time.sleep(1)
        return dict(run["result"])
    except (httpx.HTTPError, ValueError):
        sys.exit(str(error))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m agent.ask",
        description="Answers a question from the documents, with the passages that it cites.",
    )
    parser.add_argument("question")
    sys.exit(main(parser.parse_args().question))

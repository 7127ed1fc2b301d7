"""Ask from the command line: `python -m agent.ask "Write a haiku."`.

The question goes to the running app; where none runs, the engine is started for this one answer,
which takes as long as the model takes to load.
"""

import argparse
import asyncio
import sys
import time
from typing import Any

import httpx

from agent.chat import Talk, answer
from agent.runs import Run
from agent.services import Services, connect
from agent.settings import Settings, read


def main(question: str) -> int:
    settings = read()
    messages = [{"role": "user", "content": question}]
    try:
        done = _over_http(settings, messages)
    except httpx.ConnectError:
        done = asyncio.run(_in_process(settings, messages))
    print(done["answer"] if "answer" in done else done["detail"])
    return 0 if done.get("answer") else 1


def _over_http(settings: Settings, messages: list[dict[str, Any]]) -> dict[str, Any]:
    key = settings.ask_key.get_secret_value()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    app = f"http://127.0.0.1:{settings.port}"
    given: dict[str, Any] = {"headers": headers, "timeout": 60}
    reply = httpx.post(f"{app}/api/chat", json={"messages": messages}, **given)
    if reply.status_code == 401:
        sys.exit("The running app keeps strangers out: set ASK_KEY to one of its keys.")
    if reply.status_code != 202:
        return dict(reply.json())
    place = app + reply.headers["Location"]
    while (run := httpx.get(place, **given).json())["state"] == "running":
        time.sleep(1)
    return dict(run["result"])


async def _in_process(settings: Settings, messages: list[dict[str, Any]]) -> dict[str, Any]:
    here = connect(settings)
    living = asyncio.create_task(here.engine.live())
    try:
        await _until_ready(here, living)
        if not here.engine.ready:
            return {"detail": here.engine.sentence()}
        if here.engine.small:
            print(f"(no GPU here: {here.engine.name} stands in)", file=sys.stderr)
        async for event in answer(here, Talk(messages), Run()):
            last = event
        return last.data
    finally:
        living.cancel()
        await asyncio.wait([living])
        await here.close()


async def _until_ready(here: Services, living: "asyncio.Task[None]") -> None:
    shown = ""
    while not here.engine.ready and not living.done():
        await asyncio.sleep(0.2)
        if shown != (now := here.engine.sentence()) and not here.engine.ready:
            print(shown := now, file=sys.stderr, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m agent.ask",
        description="Asks the model one question.",
    )
    parser.add_argument("question")
    sys.exit(main(parser.parse_args().question))

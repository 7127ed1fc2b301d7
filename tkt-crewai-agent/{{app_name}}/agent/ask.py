"""A run from the command line: `python -m agent.ask "What should we choose, and why?"`.

Shows who does what as it happens, then the report. When the app itself is running, it has the runs
open, so the topic goes to its API instead.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx

from agent.access import User
from agent.errors import Refused, Unavailable
from agent.runs import Event
from agent.services import connect
from agent.settings import Settings, read
from agent.work import Ask, begin, follow


def main(topic: str) -> int:
    settings = read()
    try:
        last = asyncio.run(_in_process(settings, topic))
    except Unavailable as error:
        last = _over_http(settings, topic, error)
    except Refused as error:
        sys.exit(str(error))
    print(f"\n{last.data['result'] if last.type == 'done' else last.data['detail']}")
    if last.data.get("rehearsal"):
        print("\nA rehearsal: set LITELLM_ENDPOINT and LITELLM_MASTER_KEY to have a model.")
        return 0
    spent = last.data["spent"]
    cost = "no price told" if spent["dollars"] is None else f"{spent['dollars']:.4f} dollars"
    tokens = f"{spent['input'] + spent['output']:,} tokens"
    print(f"\n{spent['steps']} calls of the model, {tokens}, {cost}, {spent['seconds']:.0f} s")
    return 0 if last.type == "done" else 1


async def _in_process(settings: Settings, topic: str) -> Event:
    here = await connect(settings)
    try:
        here.worker.start(here)
        record = await begin(here, Ask(topic, door="cli"))
        run = await follow(here, record.id, User())
        seen = 0
        while True:
            await run.wait(0.2)
            for event in run.fresh(seen):
                seen += 1
                _show(event)
                if event.last:
                    return event
    finally:
        await here.close()


def _over_http(settings: Settings, topic: str, error: Exception) -> Event:
    key = settings.ask_key.get_secret_value()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    place = f"http://127.0.0.1:{settings.port}/api/runs"
    try:
        reply = httpx.post(place, json={"topic": topic}, headers=headers, timeout=60)
        if reply.status_code == 401:
            sys.exit("The running app keeps strangers out: set ASK_KEY to one of its keys.")
        if reply.status_code in (422, 429):
            sys.exit(reply.json()["detail"])
        run_id = reply.raise_for_status().json()["run_id"]
        for event in _followed(f"{place}/{run_id}/events", headers):
            _show(event)
            if event.last:
                return event
    except (httpx.HTTPError, ValueError):
        pass
    sys.exit(str(error))


def _followed(place: str, headers: dict[str, str]) -> Iterator[Event]:
    """All events of a run; a stream that ended is read on after the last number seen."""
    number, kind = 0, ""
    while True:
        after = headers | {"Last-Event-ID": str(number)}
        with httpx.stream("GET", place, headers=after, timeout=60) as stream:
            if stream.status_code == 204:
                return
            for line in stream.raise_for_status().iter_lines():
                name, _, value = line.partition(": ")
                if name == "id":
                    number = int(value)
                elif name == "event":
                    kind = value
                elif name == "data":
                    yield Event(kind, json.loads(value))
        time.sleep(0.1)


def _show(event: Event) -> None:
    data: dict[str, Any] = event.data
    if event.type == "task" and data["status"] == "started":
        print(f"\n{data['n']} of {data['of']}  {data['task']}, {data['agent']}", flush=True)
    elif event.type == "delegation":
        print(f"    {data['from']} asks {data['to']}: {data['question']}", flush=True)
    elif event.type == "tool":
        told = ", ".join(f"{k}={v!r}" for k, v in data["arguments"].items())
        print(f"    {data['agent']} uses {data['tool']}({told})", flush=True)
    elif event.type == "step" and not data["summary"].startswith("wants "):
        print(f"    {data['agent']}: {data['summary']}", flush=True)
    elif event.type == "state" and data["note"]:
        print(f"    {data['note']}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m agent.ask",
        description="Lets the crew research a topic and prints its report.",
    )
    parser.add_argument("topic")
    sys.exit(main(parser.parse_args().topic))

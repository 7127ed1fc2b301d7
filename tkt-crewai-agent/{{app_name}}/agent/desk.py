"""Where a run's calls come together: budget, record, events and trace of one run at work.

CrewAI thinks in a thread; what it asks of a model or a tool is a coroutine here, on the app's event
loop, one at a time for models. So stopping a run cancels the call that it waits for, and what a run
spends is counted and kept before its next step begins.
"""

import asyncio
import json
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from agent.errors import Refused, Unavailable
from agent.gateway import Adaptable, Said
from agent.harmless import quiet, visible
from agent.records import LONGEST_TEXT, Record
from agent.runs import Event
from agent.tracing import Step, Trace

if TYPE_CHECKING:
    from agent.services import Services
    from agent.tools import Tool

T = TypeVar("T")
SUMMARY_CHARS = 240
"""How much of what an agent says the timeline shows."""
RESULT_CHARS = 12_000
"""How much of a tool's result an agent reads."""
QUIET_S = 5
"""What a call gets to end that was cancelled."""
DELEGATING = {"delegate_work_to_coworker": "task", "ask_question_to_coworker": "question"}
"""CrewAI's own tools of a manager, and the argument that says what is wanted."""


class Stopped(Exception):
    """The run goes no further: raised in the crew's thread, as nothing else ends it."""


class Desk:
    """One run, while a worker has it."""

    def __init__(self, here: "Services", record: Record, trace: Trace) -> None:
        self.here, self.record, self.trace = here, record, trace
        self.context_tokens = here.settings.context_tokens
        self.task = ""
        self.agent = ""
        """Who spoke last; CrewAI does not always say who asks."""
        self.reason = ""
        """Why the run must stop, as a sentence; once it is set there are no more calls."""
        self._loop = asyncio.get_running_loop()
        self._one_at_a_time = asyncio.Lock()
        self._waiting: set[Future[Any]] = set()
        self._calls: set[asyncio.Task[Any]] = set()
        self._lock = threading.Lock()
        self._stopped = False
        self.unkept: Exception | None = None
        """Why the record could not be written: it is another worker's, or the journal is away."""
        self._since = time.monotonic()
        self._task_step, self._agent_steps = Step(), dict[str, Step]()

    # In the crew's thread

    def wait_for(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The result of `coroutine`, run on the loop; `Stopped` once the run must stop."""
        with self._lock:
            if self._stopped:
                coroutine.close()
                raise Stopped
            future = asyncio.run_coroutine_threadsafe(self._counted(coroutine), self._loop)
            self._waiting.add(future)
        try:
            return future.result()
        except CancelledError:
            raise Stopped from None
        finally:
            self._waiting.discard(future)

    # On the loop

    async def _counted(self, coroutine: Coroutine[Any, Any, T]) -> T:
        task = asyncio.current_task()
        assert task
        self._calls.add(task)
        try:
            return await coroutine
        finally:
            self._calls.discard(task)

    async def quiet(self) -> None:
        """Wait until what was stopped has ended: it may be writing the record."""
        if self._calls:
            await asyncio.wait(self._calls, timeout=QUIET_S)

    def stop(self, reason: str = "") -> None:
        """Cancel what the crew waits for, and let it ask for nothing more."""
        self.reason = self.reason or reason
        with self._lock:
            self._stopped = True
            waiting = list(self._waiting)
        for future in waiting:
            future.cancel()

    async def begin(self, task: str, agent: str) -> None:
        """A task begins."""
        self.task, self.agent = task, agent
        names = self.here.task_names
        told = {"task": task, "agent": agent, "status": "started"}
        await self.say("task", told | {"n": names.index(task) + 1, "of": len(names)})
        self._task_step = self.trace.step(f"task {task}", "chain")
        self._agent_steps.clear()

    async def ask(self, messages: Any, tools: Any, stop: list[str], agent: str | None) -> Said:
        """One call of the model; what it spends is kept before the answer is used."""
        async with self._one_at_a_time:
            self._check_budget()
            self.agent = agent or self.agent
            told = {"input": messages, "metadata": {"agent": self.agent, "task": self.task}}
            step = self.trace.step("model", "generation", under=self._agent_step(), **told)
            begin = time.monotonic()
            try:
                plain = self._plain(messages)
                said = await self.here.model.complete(plain, tools, stop, step.traceparent)
            except Unavailable as error:
                self.here.measures.model_call("failed", time.monotonic() - begin)
                step.end(level="ERROR", status_message=str(error))
                if not isinstance(error, Adaptable):
                    self.stop(str(error))
                raise
            said.calls = [_mended(call) for call in said.calls if _makes_sense(call)]
            await self._count(said, step, time.monotonic() - begin)
            return said

    async def _count(self, said: Said, step: Step, seconds: float) -> None:
        record, wanted = self.record, [c["function"]["name"] for c in said.calls]
        record.spent.add(said.input, said.output, said.dollars)
        record.model = said.model
        record.spent.seconds = self.seconds()
        self.here.measures.model_call("ok", seconds)
        self.here.measures.spent(said.input, said.output, said.dollars)
        usage: dict[str, Any] = {"usage_details": {"input": said.input, "output": said.output}}
        if said.dollars is not None:
            usage["cost_details"] = {"total": said.dollars}
        shown = {} if self.here.settings.gateway_traces else usage
        step.end(output=said.text or said.calls, model=said.model, **shown)
        await self.keep()
        summary = f"wants {', '.join(wanted)}" if wanted else brief(said.text)
        told = {"task": self.task, "agent": self.agent, "summary": summary, "model": said.model}
        tokens = {"input": said.input, "output": said.output}
        cost = {"tokens": tokens, "dollars": said.dollars, "seconds": round(seconds, 3)}
        await self.say("step", told | cost | {"spent": vars(record.spent)})
        for call in said.calls:
            await self._delegation(call["function"])

    async def _delegation(self, function: dict[str, Any]) -> None:
        if function["name"] not in DELEGATING:
            return
        try:
            arguments = json.loads(function["arguments"])
            question = str(arguments.get(DELEGATING[function["name"]], ""))
            to = str(arguments.get("coworker", ""))
        except (ValueError, TypeError, AttributeError):
            return
        told = {"task": self.task, "from": self.agent, "to": to, "question": brief(question)}
        await self.say("delegation", told)

    async def use(self, tool: "Tool", arguments: dict[str, Any], agent: str) -> str:
        """One call of a tool; what goes wrong is told to the agent, which can try otherwise."""
        begin, ok = time.monotonic(), True
        step = self.trace.step(tool.name, "tool", under=self._agent_step(agent), input=arguments)
        try:
            given = await tool.do(self.here.toolbox, **arguments)
            result = given if isinstance(given, str) else f"{given}"
        except (Refused, Unavailable) as error:
            result, ok = f"This did not work: {error}", False
        except Exception as error:  # a tool of the owner's, which may raise anything
            result, ok = f"This did not work: {type(error).__name__}: {error}", False
        result = cut(visible(result))
        step.end(output=result, level=None if ok else "ERROR")
        self.here.measures.tool_call(tool.name, ok)
        told = {"task": self.task, "agent": agent, "tool": tool.name, "ok": ok}
        shown = {"arguments": {k: brief(str(v)) for k, v in arguments.items()}}
        taken = {"result": brief(result), "seconds": round(time.monotonic() - begin, 3)}
        await self.say("tool", told | shown | taken)
        return result

    async def finished(self, task: str, text: str) -> None:
        """A task is done, and will not be done again; the next one begins."""
        text = quiet(visible(str(text)))[:LONGEST_TEXT]
        agent = self.here.agent_of(task)
        self.record.outputs.append({"task": task, "agent": agent, "text": text})
        self.record.spent.seconds = self.seconds()
        await self.keep()
        for step in self._agent_steps.values():
            step.end()
        self._task_step.end(output=text)
        await self.say("task", {"task": task, "agent": agent, "status": "finished", "text": text})
        if (following := self.here.task_after(task)) and task not in self.record.approve:
            await self.begin(following, self.here.agent_of(following))

    async def keep(self) -> None:
        """Write the record; `Changed` when the run was taken from this worker."""
        try:
            await self.here.journal.write(self.record)
        except Exception as error:
            self.unkept = error
            self.stop("The run was changed by somebody else, or cannot be kept.")
            raise

    async def say(self, kind: str, data: dict[str, Any]) -> None:
        await self.here.journal.add(self.record.id, Event(kind, data))

    def seconds(self) -> float:
        """Worked on this run, by all workers that had it."""
        now = time.monotonic()
        worked, self._since = now - self._since, now
        return round(self.record.spent.seconds + worked, 3)

    def _check_budget(self) -> None:
        """Before each call, so that it is overrun by one call at most."""
        spent, most = self.record.spent, self.record.budget
        reached = {
            f"{most.steps} calls of a model": spent.steps >= most.steps,
            f"{most.tokens:,} tokens": spent.tokens >= most.tokens,
            f"{most.dollars:g} dollars": (spent.dollars or 0) >= most.dollars,
        }
        for limit in (limit for limit, over in reached.items() if over):
            self.stop(f"The run has reached its budget of {limit}; ask for less, or allow more.")
            raise Stopped

    def _agent_step(self, agent: str = "") -> Step:
        """The agent's span under the current task's; made when it is first needed."""
        agent = agent or self.agent
        if agent not in self._agent_steps:
            self._agent_steps[agent] = self.trace.step(agent, "agent", under=self._task_step)
        return self._agent_steps[agent]

    def _plain(self, messages: Any) -> list[dict[str, Any]]:
        """Only what OpenAI's API knows; CrewAI adds keys of its own."""
        known = ("role", "content", "tool_calls", "tool_call_id", "name")
        return [{k: m[k] for k in known if k in m} for m in messages]


def _makes_sense(call: Any) -> bool:
    """Whether it names a tool, in OpenAI's form."""
    function = call.get("function") if isinstance(call, dict) else None
    return isinstance(function, dict) and isinstance(function.get("name"), str)


def _mended(call: dict[str, Any]) -> dict[str, Any]:
    """The call with arguments that are an object; CrewAI breaks off at others, and tells the agent
    what is missing in an empty one."""
    function = call["function"]
    with suppress(TypeError, ValueError):
        if isinstance(json.loads(function.get("arguments")), dict):
            return call
    return call | {"function": function | {"arguments": "{}"}}


def cut(result: str) -> str:
    """As much of a tool's result as an agent reads, and a word on the rest."""
    more = len(result) - RESULT_CHARS
    return f"{result[:RESULT_CHARS]}\n[{more} characters more]" if more > 0 else result


def brief(text: str) -> str:
    """The first words, on one line."""
    line = " ".join(visible(text).split())
    return line if len(line) <= SUMMARY_CHARS else f"{line[: SUMMARY_CHARS - 1].rstrip()}…"

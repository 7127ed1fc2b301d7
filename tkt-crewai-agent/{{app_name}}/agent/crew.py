"""How prompts.py becomes a crew of CrewAI's: a new one for every run, as a crew cannot be shared.

The crew thinks in a thread of its own; each call of a model or a tool goes through the run's desk,
on the app's event loop. Memory, knowledge, cache and telemetry of CrewAI are off: they would keep
what users ask in local files, or tell others.
"""

import inspect
from collections.abc import Sequence
from typing import Any

from agent import silence  # isort: skip # before CrewAI
from crewai import Agent, BaseLLM, Crew, Process, Task
from crewai.tasks.task_output import TaskOutput
from crewai.tools import BaseTool
from pydantic import BaseModel, PrivateAttr, create_model

from agent import prompts
from agent.desk import Desk
from agent.prompts import Role, Step
from agent.records import Record
from agent.tools import Tool

STEPS_OF_A_TASK = 20
"""Calls of a model after which an agent must come to an end with its task."""
assert silence.QUIET


class CrewModel(BaseLLM):
    """CrewAI's idea of a model, answered at the run's desk."""

    _desk: Desk = PrivateAttr()

    @classmethod
    def at(cls, desk: Desk) -> "CrewModel":
        model = cls(model="at-the-desk")
        model._desk = desk
        return model

    def call(
        self,
        messages: Any,
        tools: Any = None,
        callbacks: Any = None,
        available_functions: Any = None,
        from_task: Any = None,
        from_agent: Any = None,
        response_model: Any = None,
    ) -> Any:
        """Text, or a list of tool calls in OpenAI's form."""
        told = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        agent = from_agent.role if from_agent else self._desk.agent
        said = self._desk.wait_for(self._desk.ask(told, tools, self.stop_sequences, agent))
        return said.calls or said.text

    def supports_function_calling(self) -> bool:
        return True

    def supports_stop_words(self) -> bool:
        return False

    def get_context_window_size(self) -> int:
        return self._desk.context_tokens

    def get_input_tokens_count(
        self, messages: Any, tools: Any = None, response_model: Any = None
    ) -> int:
        """Four characters are a token, more or less."""
        return (len(str(messages)) + 3) // 4


class CrewTool(BaseTool):
    """CrewAI's idea of a tool, used at the run's desk."""

    _desk: Desk = PrivateAttr()
    _tool: Tool = PrivateAttr()
    _agent: str = PrivateAttr()

    def _run(self, **arguments: Any) -> str:
        return self._desk.wait_for(self._desk.use(self._tool, arguments, self._agent))


class _NotKept:
    """In place of the database in which CrewAI keeps the last outputs."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


def build(record: Record, steps: Sequence[Step], tools: dict[str, Tool], desk: Desk) -> Crew:
    """A crew that does `steps`, of a run whose other tasks are finished."""
    model = CrewModel.at(desk)
    agents = {key: _agent(role, model, tools, desk) for key, role in prompts.AGENTS.items()}
    context = [_finished(output) for output in record.outputs]
    tasks: list[Task] = []
    managed = record.process == "hierarchical"
    for step in steps:
        tasks.append(
            Task(
                name=step.name,
                description=_told(step, record),
                expected_output=step.expected,
                agent=None if managed else agents[step.agent],
                context=[*context, *tasks] or None,
                callback=lambda output: desk.wait_for(desk.finished(output.name, output.raw)),
            )
        )
    manager = _agent(prompts.MANAGER, model, {}, desk) if managed else None
    crew = Crew(
        agents=list(agents.values()),
        tasks=tasks,
        process=Process.hierarchical if managed else Process.sequential,
        memory=False,
        cache=False,
        verbose=False,
        share_crew=False,
        tracing=False,
        manager_agent=manager,
    )
    crew._task_output_handler = _NotKept()  # type: ignore[assignment]
    return crew


def _agent(role: Role, model: CrewModel, tools: dict[str, Tool], desk: Desk) -> Agent:
    return Agent(
        role=role.role,
        goal=role.goal,
        backstory=role.backstory,
        llm=model,
        tools=[_tool(tools[name], role, desk) for name in role.tools if name in tools],
        allow_delegation=False,
        max_iter=STEPS_OF_A_TASK,
        max_retry_limit=0,  # what failed once at the desk was tried often enough
        verbose=False,
        cache=False,
    )


def _tool(tool: Tool, role: Role, desk: Desk) -> CrewTool:
    made = CrewTool(name=tool.name, description=tool.description, args_schema=_arguments(tool))
    made._desk, made._tool, made._agent = desk, tool, role.role
    return made


def _arguments(tool: Tool) -> type[BaseModel]:
    """The parameters of the tool's function, after the first one."""
    parameters = list(inspect.signature(tool.do, eval_str=True).parameters.values())[1:]
    empty = inspect.Parameter.empty
    fields: dict[str, Any] = {
        p.name: (p.annotation, ... if p.default is empty else p.default) for p in parameters
    }
    return create_model(tool.name, **fields)


def _told(step: Step, record: Record) -> str:
    """What the task says, and what people have said about those before it."""
    comments = [
        prompts.REVIEWED.replace("{task}", c["task"]).replace("{comment}", c["comment"])
        for c in record.comments
        if c["comment"]
    ]
    return "\n\n".join([step.description.replace("{topic}", record.topic), *comments])


def _finished(output: dict[str, str]) -> Task:
    """A task that was done earlier, maybe by another worker, for those after it to read."""
    task = Task(name=output["task"], description=output["task"], expected_output="text")
    task.output = TaskOutput(
        name=output["task"], description=output["task"], raw=output["text"], agent=output["agent"]
    )
    return task

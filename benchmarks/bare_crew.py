"""The app's crew without the app: CrewAI called directly, for benchmarks/crew.py to compare with.

    python benchmarks/bare_crew.py APP_FOLDER GATEWAY_URL KEY TOPIC...

Runs in the app's own environment. The same roles, tasks and tools; CrewAI's own client of the
gateway; no journal, no events, no budget. Prints the seconds that each topic took, a line each.
"""

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path


def main(app: str, url: str, key: str, topics: list[str]) -> None:
    sys.path.insert(0, app)
    from agent import silence

    assert silence.QUIET
    from agent.documents import Documents
    from agent.qdrant_embedded import Embedded
    from agent.tools import Toolbox

    with tempfile.TemporaryDirectory() as folder:
        documents = Documents(Embedded(Path(folder)), "bare")
        asyncio.run(documents.add("sample.md", "Heat pumps cost 1,200 pounds a school."))
        for topic in topics:
            begin = time.monotonic()
            result = crew(url, key, topic, Toolbox(documents)).kickoff()
            assert topic in result.raw, result.raw
            print(f"{time.monotonic() - begin:.3f}", flush=True)


def crew(url: str, key: str, topic: str, box: object) -> object:
    from crewai import LLM, Agent, Crew, Task
    from crewai.tools import BaseTool

    from agent import prompts
    from agent.tools import offered

    llm = LLM(model="openai/double", base_url=url, api_key=key)

    class Plain(BaseTool):  # type: ignore[misc]
        do: object = None

        def _run(self, **arguments: object) -> str:
            return str(asyncio.run(self.do(box, **arguments)))  # type: ignore[operator]

    def tool(one: object) -> BaseTool:
        from agent.crew import _arguments

        schema = _arguments(one)  # type: ignore[arg-type]
        return Plain(name=one.name, description=one.description, args_schema=schema, do=one.do)  # type: ignore[attr-defined]

    there = offered(box)  # type: ignore[arg-type]
    agents = {
        key: Agent(
            role=role.role, goal=role.goal, backstory=role.backstory, llm=llm,
            tools=[tool(there[name]) for name in role.tools if name in there],
            allow_delegation=False,
        )
        for key, role in prompts.AGENTS.items()
    }  # fmt: skip
    tasks: list[Task] = []
    for step in prompts.TASKS:
        description = step.description.replace("{topic}", topic)
        context = list(tasks) or None
        agent = agents[step.agent]
        tasks.append(
            Task(
                description=description, expected_output=step.expected, agent=agent, context=context
            )
        )
    return Crew(agents=list(agents.values()), tasks=tasks)


if __name__ == "__main__":
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])

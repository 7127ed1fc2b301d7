"""What goes over the wire: the bodies of the API's requests and answers, on HTTP and on NATS."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200_000)]
Name = Annotated[str, StringConstraints(max_length=200)]
State = Literal["queued", "running", "waiting", "done", "failed", "cancelled"]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Reply(BaseModel):
    model_config = ConfigDict(from_attributes=True, use_attribute_docstrings=True)


class BudgetRequest(Body):
    """Less than the app's settings allow, which hold for what is left out."""

    steps: int | None = Field(default=None, ge=1, le=1_000_000)
    """Calls of a model."""
    tokens: int | None = Field(default=None, ge=1, le=1_000_000_000)
    """Read and written, together."""
    dollars: float | None = Field(default=None, gt=0, le=1_000_000)
    seconds: float | None = Field(default=None, gt=0, le=1_000_000)
    """Worked on it; waiting does not count."""


class RunRequest(Body):
    topic: Text
    """What the crew shall find out or write about."""
    process: Literal["sequential", "hierarchical"] = "sequential"
    """One after the other, or a manager delegates."""
    approve: list[Name] = Field(default=[], max_length=20)
    """Tasks after which a person is asked before the crew goes on."""
    budget: BudgetRequest = BudgetRequest()


class RunRequestOnNats(RunRequest):
    """The same, as other apps send it to `agents.APP.run`."""

    key: str = Field(default="", max_length=200)
    """The same key is the same run."""


class Approval(Body):
    decision: Literal["approve", "redo"]
    """Let the crew go on, or do the task again."""
    comment: str = Field(default="", max_length=4000)
    """Told to the crew; needed for `redo`."""


class Started(Reply):
    run_id: str
    state: State
    detail: str


class Spent(Reply):
    steps: int
    """Calls of a model."""
    input: int
    """Tokens read."""
    output: int
    """Tokens written."""
    dollars: float | None
    """null while nobody has told a price."""
    seconds: float
    """Worked on it."""


class Budget(Reply):
    steps: int
    tokens: int
    dollars: float
    seconds: float


class Output(Reply):
    task: str
    agent: str
    text: str


class Asked(Reply):
    task: str
    text: str
    """What is to be approved."""
    at: str


class Comment(Reply):
    task: str
    decision: str
    comment: str
    by: str


class Run(Reply):
    run_id: str
    topic: str
    process: str
    approve: list[str]
    door: str
    """Where it was begun: api, page, v1, mcp, nats."""
    state: State
    attempt: int
    """How often a worker has taken it up."""
    outputs: list[Output]
    """Of the tasks that are finished."""
    budget: Budget
    spent: Spent
    asked: Asked | None
    """The approval that it waits for."""
    comments: list[Comment]
    result: str
    """Markdown, once it is done."""
    error: str
    """Why it failed."""
    trace_id: str | None
    """In Langfuse."""
    created_at: str
    updated_at: str


class Listed(Reply):
    id: str
    topic: str
    """Its first 200 characters."""
    state: State
    dollars: float | None
    created_at: str
    updated_at: str


class Role(Reply):
    key: str
    role: str
    goal: str
    tools: list[str]
    """Those that can be used with what is configured."""


class Task(Reply):
    name: str
    agent: str
    """Key of the agent."""
    description: str
    expected: str


class Tool(Reply):
    name: str
    description: str
    offered: bool
    """Whether what it needs is configured."""


class Crew(Reply):
    agents: list[Role]
    tasks: list[Task]
    tools: list[Tool]


class Document(Reply):
    name: str
    characters: int
    added_at: str


class Health(Reply):
    status: Literal["healthy"] = "healthy"
    component: str = "app"
    service: str


class Service(Reply):
    ok: bool
    detail: str


class Ready(Reply):
    ready: bool
    """False while a service that is configured is down."""
    mode: Literal["model", "rehearsal"]
    """Whether a model works, or scripted words stand in for one."""
    services: dict[str, Service]


class Problem(Reply):
    type: str
    title: str
    status: int
    detail: str
    """What is wrong and what to do, in a sentence."""
    request_id: str


class Event(Reply):
    """An event as it is sent on NATS, to `agents.APP.events.RUN_ID`."""

    run_id: str
    type: Literal["state", "task", "step", "tool", "delegation", "approval", "done", "error"]
    data: dict[str, Any]
    at: str

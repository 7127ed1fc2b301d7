"""Everything that can be configured, with its unit or trade-off.

The values come from environment variables of the same name in capitals; `app.env` beside `app.py`
holds the defaults of this app, and a real environment variable wins over it.
"""

import re
import shlex
import sys
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from agent import keys

HERE = Path(__file__).resolve().parent.parent
CLUSTER_LITELLM = "http://litellm.litellm.svc.cluster.local"
CLUSTER_MLFLOW = "http://mlflow.mlflow.svc.cluster.local:5000"
NAME = re.compile(r"[\w.:/-]+")
"""What a model, an adapter and an alias may be called."""


class Settings(BaseSettings):
    """One frozen object for the whole process; read once, when the app is created."""

    model_config = SettingsConfigDict(
        env_file=HERE / "app.env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )

    app_name: str = "model-server"
    """Name of the app, and of the model where ALIASES says no other."""
    app_title: str = ""
    """Heading of the page; the app's name when empty."""
    project_description: str = ""
    """Line under the heading of the page."""
    port: int = 7860
    """Where `python -m agent.ask` looks for a running app."""
    ask_key: SecretStr = SecretStr("")
    """One of the app's own keys, which `python -m agent.ask` sends to it."""

    model_id: str = "Qwen/Qwen2.5-7B-Instruct"
    """What is served: a model of the hub (`owner/name`), a folder, or an MLflow registered model
    (`models:/name`, `models:/name/3`, `models:/name@alias`). A hub model that MLflow mirrors is
    read from there."""
    hf_token: SecretStr = SecretStr("")
    """Token of the hub, for gated models."""
    mlflow_tracking_uri: str = ""
    """MLflow's address; when empty the platform's own, where it injects an account."""
    mlflow_models: Path = Path("/mlflow-models")
    """Where MLflow's artefacts are mounted."""
    adapters: str = ""
    """LoRA adapters to load at the start: entries `name=source` with commas between; a source is
    what MODEL_ID may be."""
    max_lora_rank: int = Field(default=0, ge=0, le=512)
    """Largest rank of adapters that are loaded later; costs GPU memory. 0 takes the largest of
    ADAPTERS, and none where that is empty."""

    engine: Literal["auto", "vllm", "small"] = "auto"
    """`vllm` serves MODEL_ID; `small` a tiny model on the CPU, to try page and API; `auto` takes
    vLLM where there is a GPU."""
    engine_command: str = "/engine/bin/python -m vllm.entrypoints.openai.api_server"
    """What starts vLLM's server, in an environment of its own."""
    engine_args: str = ""
    """Further flags for vLLM; they win over those that the app works out."""
    max_model_len: int = Field(default=0, ge=0)
    """Longest talk in tokens, question and answer together; 0 takes what fits the card."""
    gpu_memory_utilization: float = Field(default=0, ge=0, le=1)
    """Share of the card's memory that vLLM takes; 0 takes 0.9, or what is free."""
    gpu_memory_gib: float = Field(default=0, ge=0)
    """Memory of each card where the driver does not say, in GiB."""
    engine_starts: int = Field(default=3, ge=1)
    """Starts in a row that may fail before the engine is given up."""
    stall_timeout_s: float = Field(default=600, gt=0)
    """Seconds without a word from an engine that starts, or without an answer from one that was
    ready, after which it is started anew. Compiling a large model is silent for minutes."""

    answer_tokens: int = Field(default=1024, ge=1)
    """Longest answer on the page and at /api/chat, in tokens, unless asked otherwise."""
    answer_timeout_s: float = Field(default=600, gt=0)
    """Seconds after which an answer of the page or /api/chat is given up."""
    max_upload_mb: int = Field(default=20, ge=1)
    """Largest request, in MiB; pictures for a model that sees count."""
    max_question_chars: int = Field(default=32_000, ge=1)
    """Longest message on the page, in characters."""

    litellm_endpoint: str = ""
    """LiteLLM's address; in a cluster the platform's own when empty."""
    litellm_master_key: SecretStr = SecretStr("")
    """With LiteLLM's master key the app registers its model there."""
    aliases: str = ""
    """Under which names LiteLLM offers what is served here: entries `alias` for the model, or
    `alias=adapter`, with commas between; the app's name when empty."""
    service_url: str = ""
    """Where LiteLLM reaches this app; its address inside the cluster when empty."""

    auth: Literal["auto", "on", "off"] = "auto"
    """Who gets in: `auto` asks for a sign-on where KEYCLOAK_URL is set, `off` lets in everybody."""
    accepted_clients: str = ""
    """Other clients of the realm whose tokens are taken, with commas between; `*` takes all. Apps
    call each other with the token of the platform's own client `mlflow`."""
    api_keys: str = ""
    """Entries `name:hash` of keys for clients that cannot sign on; `python -m agent.keys NAME`
    makes one. A hash is no secret."""
    session_secret: SecretStr = SecretStr("")
    """What the browser's sign-on is signed with. When empty it is made at each start, so that
    browsers sign on anew, and a second replica does not know them."""
    requests_per_minute: int = Field(default=600, ge=0)
    """Of one user or key; 0 is no limit. LiteLLM counts as one."""
    concurrent_runs: int = Field(default=20, ge=0)
    """Answers of one user on the page and at /api/chat at the same time; 0 is no limit."""
    log_format: Literal["auto", "json", "text"] = "auto"
    """`auto` writes JSON lines in a cluster and text elsewhere."""

    # What the platform injects into every pod.
    keycloak_url: str = ""
    """Set by the platform: Keycloak's address."""
    keycloak_realm: str = "thinkube"
    """Set by the platform: the realm of users and apps."""
    keycloak_client_id: str = ""
    """Set by the platform: this app's own client; the app's name when empty."""
    app_url: str = ""
    """Set by the platform: the address at which browsers find the app."""
    mlflow_keycloak_client_id: str = "mlflow"
    """Set by the platform: the client that may ask for a token by password."""
    mlflow_client_secret: SecretStr = SecretStr("")
    """Set by the platform: that client's secret."""
    mlflow_auth_username: str = ""
    """Set by the platform: for whom the token is made."""
    mlflow_auth_password: SecretStr = SecretStr("")
    """Set by the platform: with which password."""
    kubernetes_service_host: str = ""
    """Set by Kubernetes: that the app runs in a cluster."""

    @field_validator("litellm_endpoint")
    @classmethod
    def _ends_before_v1(cls, url: str) -> str:
        """LiteLLM is given with or without `/v1`; models are registered beside it."""
        return url.rstrip("/").removesuffix("/v1")

    @field_validator("api_keys")
    @classmethod
    def _are_keys(cls, entries: str) -> str:
        keys.parse(entries)
        return entries

    @field_validator("adapters", "aliases")
    @classmethod
    def _are_pairs(cls, entries: str) -> str:
        pairs(entries)
        return entries

    @field_validator("model_id")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        folder = name.startswith(("/", "./", "~"))
        if not folder and not NAME.fullmatch(name.replace("@", "")):
            raise ValueError("this is no owner/name, folder or models:/name")
        return name

    @field_validator("engine_args", "engine_command")
    @classmethod
    def _are_words(cls, words: str) -> str:
        shlex.split(words)
        return words

    @field_validator("engine_command")
    @classmethod
    def _names_a_program(cls, command: str) -> str:
        if not command.split():
            raise ValueError("this names no program")
        return command

    @model_validator(mode="after")
    def _fit_together(self) -> "Settings":
        if self.auth == "on" and not (self.keycloak_url or self.api_keys):
            raise ValueError("AUTH=on needs KEYCLOAK_URL, API_KEYS or both")
        return self

    @property
    def signs_on(self) -> bool:
        """Whether strangers are kept out."""
        return self.auth == "on" or (self.auth == "auto" and bool(self.keycloak_url))

    @property
    def logs_as_json(self) -> bool:
        return self.log_format == "json" or (self.log_format == "auto" and self.in_cluster)

    @property
    def issuer(self) -> str:
        """Who signs the users' tokens; "" where nobody does."""
        url = self.keycloak_url.rstrip("/")
        return f"{url}/realms/{self.keycloak_realm}" if url else ""

    @property
    def title(self) -> str:
        return self.app_title or self.app_name.replace("-", " ").title()

    @property
    def in_cluster(self) -> bool:
        return bool(self.kubernetes_service_host or self.keycloak_url)

    @property
    def can_mint_token(self) -> bool:
        return bool(self.keycloak_url and self.mlflow_auth_username and self.mlflow_auth_password)

    @property
    def mlflow_url(self) -> str:
        """Where registered models are looked up; "" where there is none, or no way in: the
        cluster's own refuses whoever has no token."""
        ours = CLUSTER_MLFLOW if self.can_mint_token else ""
        return (self.mlflow_tracking_uri or ours).rstrip("/")

    @property
    def litellm_url(self) -> str:
        """Where the model is registered; "" where it is not."""
        if not self.litellm_master_key:
            return ""
        return self.litellm_endpoint or (CLUSTER_LITELLM if self.in_cluster else "")

    @property
    def wanted_adapters(self) -> dict[str, str]:
        """{name: source}"""
        return pairs(self.adapters)

    @property
    def wanted_aliases(self) -> dict[str, str]:
        """{alias: adapter}, with "" for the model itself."""
        return pairs(self.aliases or self.app_name)

    @property
    def own_address(self) -> str:
        """How others in the cluster reach this app."""
        app = self.app_name
        return self.service_url.rstrip("/") or f"http://{app}-app.{app}.svc.cluster.local:7860"


def pairs(entries: str) -> dict[str, str]:
    """{name: value} of entries `name=value` or `name` with commas or spaces between."""
    found = {}
    for entry in entries.replace(",", " ").split():
        name, _, value = entry.partition("=")
        if not NAME.fullmatch(name):
            raise ValueError(f"{entry[:60]!r} is no name=source")
        found[name] = value
    return found


def read() -> Settings:
    """The settings of this process; ends it with a sentence when one of them cannot be."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        said = first["msg"].removeprefix("Value error, ")
        if first["loc"]:  # one setting, and no secret: those take any text
            name = str(first["loc"][0]).upper()
            shown = "" if name == "API_KEYS" else f"={first['input']!r}"  # it may hold a key
            said = f"{name}{shown}: {said}"
        sys.exit(f"{said}; correct it in app.env or outside.")

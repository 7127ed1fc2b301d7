"""Everything that can be configured, with its unit or trade-off.

The values come from environment variables of the same name in capitals; `app.env` beside `app.py`
holds the defaults of this app, and a real environment variable wins over it.
"""

import sys
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from agent import keys

HERE = Path(__file__).resolve().parent.parent
CLUSTER_LITELLM = "http://litellm.litellm.svc.cluster.local/v1"
CLUSTER_LLM_GATEWAY = "http://llm-proxy.thinkube-control.svc.cluster.local:8080/v1"
CLUSTER_LANGFUSE = "http://langfuse.langfuse.svc.cluster.local:3000"


class Settings(BaseSettings):
    """One frozen object for the whole process; read once, when the app is created."""

    model_config = SettingsConfigDict(
        env_file=HERE / "app.env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        use_attribute_docstrings=True,
    )

    app_name: str = "small-agent"
    """What the app calls itself: at /v1, in its cookie and its log."""
    app_title: str = ""
    """Heading of the page; the app's name when empty."""
    project_description: str = ""
    """Line under the heading of the page."""
    data_dir: Path = HERE / "data"
    """Where the page keeps temporary files. In a pod it dies with the pod."""

    chat_model: str = "auto"
    """Model name at the gateway; `auto` takes the first that answers, `none` shows the
    text's first sentences instead of asking a model."""
    litellm_endpoint: str = ""
    """Base URL of LiteLLM or another OpenAI-compatible gateway."""
    litellm_master_key: SecretStr = SecretStr("")
    """Key of that gateway."""
    langfuse_host: str = ""
    """Langfuse server that takes the traces."""
    langfuse_public_key: str = ""
    """Tracing is off without this key and the secret one."""
    langfuse_secret_key: SecretStr = SecretStr("")
    """Tracing is off without this key and the public one."""

    sentences: int = Field(default=3, ge=1)
    """Longest summary, in sentences."""
    answer_tokens: int = Field(default=1024, ge=1)
    """Longest answer, in tokens."""
    answer_timeout_s: float = Field(default=300, gt=0)
    """Seconds after which an answer is given up."""
    max_upload_mb: int = Field(default=1, ge=1)
    """Largest request, in MiB."""
    max_question_chars: int = Field(default=40_000, ge=1)
    """Longest text, in characters."""

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
    requests_per_minute: int = Field(default=300, ge=0)
    """Of one user or key; 0 is no limit."""
    concurrent_runs: int = Field(default=20, ge=0)
    """Answers of one user at the same time; 0 is no limit."""
    log_format: Literal["auto", "json", "text"] = "auto"
    """`auto` writes JSON lines in a cluster and text elsewhere."""

    # What the platform injects into every pod: enough to make a token for its own LLM gateway.
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
    def _ends_in_v1(cls, url: str) -> str:
        """LiteLLM is given with or without `/v1`; its OpenAI paths stand under `/v1`."""
        url = url.rstrip("/")
        return f"{url}/v1" if url and not url.endswith("/v1") else url

    @field_validator("api_keys")
    @classmethod
    def _are_keys(cls, entries: str) -> str:
        keys.parse(entries)
        return entries

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
    def gateway_url(self) -> str:
        """The model gateway: the configured one, else LiteLLM or the platform's own; "" = none."""
        if self.litellm_endpoint:
            return self.litellm_endpoint
        if self.litellm_master_key and self.in_cluster:
            return CLUSTER_LITELLM
        return CLUSTER_LLM_GATEWAY if self.can_mint_token else ""

    @property
    def langfuse_url(self) -> str:
        return self.langfuse_host or (CLUSTER_LANGFUSE if self.in_cluster else "")


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

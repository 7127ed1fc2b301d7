"""What every notebook holds to, and what services.py says when a service is not there.

The notebooks themselves are run by `make notebooks`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.doubles.gateway import Gateway
from tests.doubles.langfuse import Langfuse
from tests.doubles.serve import running
from tests.rendering import ROOT

sys.path.insert(0, str(ROOT / "notebooks"))
sys.path.insert(0, str(ROOT / "tools"))
import services

import notebooks as runner

NAMES = [*runner.NOTEBOOKS]


def read(name: str) -> Any:
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def test_every_notebook_is_run() -> None:
    found = {str(file.relative_to(ROOT / "notebooks"))[:-6] for file in _files()}
    assert found == set(NAMES)


def _files() -> list[Path]:
    return [p for p in (ROOT / "notebooks").rglob("*.ipynb") if ".ipynb_checkpoints" not in str(p)]


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_says_first_what_it_teaches_how_long_it_takes_and_what_it_needs(
    name: str,
) -> None:
    head, installs = read(name).cells[:2]
    assert head.source.startswith("# ")
    for word in ("You will", "**Time:**", "**Needs:**", "**Image:**", "not verified"):
        assert word in " ".join(head.source.split()), word
    assert "install(" in installs.source


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_was_run_to_its_end_without_an_error(name: str) -> None:
    cells = [cell for cell in read(name).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    kinds = {output.output_type for cell in cells for output in cell.outputs}
    assert kinds <= {"stream", "display_data", "execute_result"}
    assert any(cell.outputs for cell in cells)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_holds_no_key_no_path_of_a_machine_and_nothing_to_do(name: str) -> None:
    text = nbformat.writes(read(name))
    for word in ("TODO", "FIXME", "sk-", "/root/", "/home/", str(ROOT)):
        assert word not in text, word


def cell(said: str, *tags: str) -> Any:
    made = nbformat.v4.new_code_cell("print()", metadata={"tags": [*tags]})
    made.outputs = [nbformat.v4.new_output("stream", text=said)]
    return made


def test_what_a_cell_says_otherwise_is_told_unless_it_may() -> None:
    before = nbformat.v4.new_notebook(cells=[cell("4\n"), cell("2 s\n", "varies")])
    now = nbformat.v4.new_notebook(cells=[cell("5\n"), cell("3 s\n", "varies")])
    assert runner._differences("x", before, before) == []
    (said,) = runner._differences("x", before, now)
    assert said.startswith("x, cell 0 says otherwise than what is committed: '5\\n' instead of")


def test_a_gateway_that_is_away_or_refuses_the_key_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RuntimeError, match=r"does not answer .*; check LITELLM_ENDPOINT, or unset"):
        services.litellm()
    with running(Gateway(key="sk-right").app) as url:
        monkeypatch.setenv("LITELLM_ENDPOINT", url)
        monkeypatch.setenv("LITELLM_MASTER_KEY", "sk-wrong")
        with pytest.raises(RuntimeError, match="answers 401; check LITELLM_MASTER_KEY"):
            services.litellm()
        monkeypatch.setenv("LITELLM_MASTER_KEY", "sk-right")
        found = services.litellm()
    assert (found.url, found.small) == (f"{url}/v1", False)
    assert found.chat
    assert "sk-right" not in repr(found)


def test_a_model_that_the_gateway_does_not_have_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(Gateway(models=["one"]).app) as url:
        monkeypatch.setenv("LITELLM_ENDPOINT", url)
        monkeypatch.setenv("LITELLM_MASTER_KEY", "sk-double")
        monkeypatch.setenv("CHAT_MODEL", "another")
        with pytest.raises(RuntimeError, match=r"has no model another, but one, .*correct CHAT_MO"):
            services.litellm()


@pytest.mark.parametrize(
    ("service", "variable", "address"),
    [
        ("qdrant", "QDRANT_URL", "http://127.0.0.1:9"),
        ("mlflow", "MLFLOW_TRACKING_URI", "http://127.0.0.1:9"),
        ("nats", "NATS_URL", "nats://127.0.0.1:9"),
        ("langfuse", "LANGFUSE_HOST", "http://127.0.0.1:9"),
    ],
)
def test_a_service_that_is_away_is_said(
    service: str, variable: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", "pk-lf-double")
    monkeypatch.setenv("LANGFUSE_SECRET_KEY", "sk-lf-double")
    monkeypatch.setenv(variable, address)
    with pytest.raises(RuntimeError, match=f"does not answer .*; check {variable}, or unset it"):
        getattr(services, service)()


def test_a_langfuse_that_does_not_know_the_keys_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(Langfuse().app) as url:
        monkeypatch.setenv("LANGFUSE_HOST", url)
        monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", "pk-lf-wrong")
        monkeypatch.setenv("LANGFUSE_SECRET_KEY", "sk-lf-wrong")
        with pytest.raises(RuntimeError, match="answers 401; check LANGFUSE_PUBLIC_KEY, LANGFUSE"):
            services.langfuse()


def test_a_qdrant_behind_https_is_asked_at_its_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client would take 6333, where the platform's edge does not listen."""
    asked = []
    monkeypatch.setattr(services, "_answer", lambda _, request, *__: asked.append(request.full_url))
    monkeypatch.setenv("QDRANT_URL", "https://qdrant.example.org/")
    assert services.qdrant() == "https://qdrant.example.org:443"
    assert asked == ["https://qdrant.example.org:443/collections"]


def test_a_gateway_without_a_model_that_answers_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(Gateway(models=[]).app) as url:
        monkeypatch.setenv("LITELLM_ENDPOINT", url)
        monkeypatch.setenv("LITELLM_MASTER_KEY", "sk-double")
        with pytest.raises(RuntimeError, match=r"No model at .* answers, of double-embed: load"):
            services.litellm()


def test_pins_that_are_there_are_not_installed_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "requirements.txt"
    version = services.importlib.metadata.version("httpx")
    file.write_text(f"# a comment\nhttpx=={version}\n")
    services.install(str(file))
    assert "everything is installed" in capsys.readouterr().out
    file.write_text("httpx==0.0.0.1\n")
    with pytest.raises(RuntimeError, match="could not be installed"):
        services.install(str(file))

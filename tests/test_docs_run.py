"""What runs the pages' blocks notices when one fails, prints something else, or does not end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from parts.programs import free_port
from tools import notebooks
from tools.docs import run
from tools.docs.pages import Page
from tools.docs.run import Terminal, fits


def typed(tmp_path: Path, text: str) -> list[str]:
    """What each block of a page printed."""
    page = tmp_path / "page.md"
    page.write_text(text)
    terminal = Terminal(tmp_path, tmp_path)
    with ExitStack() as held:
        return [terminal.run(b, held) for b in Page(page, "page.md").blocks() if b.runs]


def test_a_terminal_remembers_its_folder_and_its_variables(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    said = typed(tmp_path, "```sh\ncd inside\nexport A='1 2'\n```\n\n```sh\npwd; echo $A\n```\n")
    assert said[1] == f"{tmp_path}/inside\n1 2\n"


def test_a_block_that_fails_fails_its_page(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="it ended with 3"):
        typed(tmp_path, "```sh\nexit 3\n```\n")
    with pytest.raises(RuntimeError, match="it ended with 1"):
        typed(tmp_path, "```sh\nfalse | true\necho on\n```\n")


def test_an_output_that_is_not_the_pages_fails_it(tmp_path: Path) -> None:
    typed(tmp_path, "```sh\necho a b\n```\n\n```text\na …\n```\n")
    with pytest.raises(RuntimeError, match="it printed something else"):
        typed(tmp_path, "```sh\necho a b\n```\n\n```text\na c\n```\n")


def test_python_is_run_as_a_program(tmp_path: Path) -> None:
    assert typed(tmp_path, "```python\nprint(6 * 7)\n```\n\n```text\n42\n```\n") == ["42\n"]


def test_what_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "LIMIT_S", 0.5)
    with pytest.raises(RuntimeError, match="it took longer than"):
        typed(tmp_path, "```sh\nsleep 30\n```\n")


def test_a_server_stays_open_until_the_end_of_its_page(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}/"
    port = url.split(":")[2].strip("/")
    serve = f"<!-- stays open: {url} -->\n```sh\npython3 -m http.server {port}\n```\n"
    ask = (
        f"```sh\npython3 -c 'import urllib.request as u; print(u.urlopen(\"{url}\").status)'\n```\n"
    )
    assert typed(tmp_path, f"{serve}\n{ask}")[1] == "200\n"
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


def test_a_server_that_does_not_start_fails_its_page(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="does not answer"):
        typed(tmp_path, "<!-- stays open: http://127.0.0.1:9/ -->\n```sh\nfalse\n```\n")


def test_a_server_that_somebody_else_runs_already_fails_its_page(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    serve = f"```sh\npython3 -m http.server {port}\n```\n"
    other = Terminal(tmp_path, tmp_path)._open(f"python3 -m http.server {port}", url)
    with other, pytest.raises(RuntimeError, match="answers before it is started"):
        typed(tmp_path, f"<!-- stays open: {url} -->\n{serve}")


def test_a_server_that_ends_before_its_page_fails_it(tmp_path: Path) -> None:
    port = free_port()
    serve = f"python3 -m http.server {port} & echo $! > pid; wait"
    text = f"<!-- stays open: http://127.0.0.1:{port}/ -->\n```sh\n{serve}\n```\n"
    wait = "while kill -0 $(cat pid); do sleep 0.1; done; sleep 1"
    with pytest.raises(RuntimeError, match="ended before its page"):
        typed(tmp_path, f"{text}\n```sh\nkill $(cat pid)\n{wait}\n```\n")


@pytest.mark.parametrize("block", ["sh\ntrue\n```\n\n```text\nok\n```\n", "python\npass\n```\n"])
def test_what_stays_open_is_shell_and_shows_no_output(tmp_path: Path, block: str) -> None:
    with pytest.raises(RuntimeError, match="without an output"):
        typed(tmp_path, f"<!-- stays open: http://127.0.0.1:9/ -->\n```{block}")


def test_a_page_that_fails_only_at_its_end_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextmanager
    def opened(self: Terminal, script: str, url: str) -> Iterator[None]:
        yield
        raise RuntimeError(f"{url} ended before its page")

    monkeypatch.setattr(Terminal, "_open", opened)
    page = tmp_path / "page.md"
    page.write_text("<!-- stays open: http://127.0.0.1:9/ -->\n```sh\ntrue\n```\n")
    assert run._run(Page(page, "page.md"), tmp_path) == 1
    assert "http://127.0.0.1:9/ ended before its page" in capsys.readouterr().out


def test_a_page_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "of_apps", lambda folder: [])
    with pytest.raises(SystemExit) as ended:
        run.main(["docs/index.md", "docs/guides/nowhere.md"])
    assert ended.value.code == 2
    assert "there is no page docs/guides/nowhere.md" in capsys.readouterr().err


def test_no_secret_reaches_a_block_or_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that only begins like one that is kept is another name."""
    secrets = {"LANGFUSE_SECRET_KEY", "USER_TOKEN", "HOMEBREW_GITHUB_API_TOKEN", "HTTP_AUTH"}
    kept = {"PATH", "LANG", "LC_ALL", "PIP_CERT", "SSL_CERT_FILE"}
    for name in secrets | kept | {"https_proxy"}:
        monkeypatch.setenv(name, "set")
    assert {"https_proxy", *kept} <= set(run._environment())
    assert kept <= set(notebooks._kept())
    assert not secrets & {*run._environment(), *notebooks._kept()}


@pytest.mark.parametrize(
    ("wanted", "printed", "same"),
    [
        ("a\n…\nd", "a\nb\nc\nd\n", True),
        ("…\nd", "d\n", True),
        ("a … d", "a b c d", True),
        ("a … d", "a b c", False),
        ("a", "a\nb", False),
        ("a.b", "axb", False),
    ],
)
def test_three_dots_stand_for_what_varies(wanted: str, printed: str, same: bool) -> None:
    assert fits(wanted, printed) == same


def test_a_block_that_is_marked_or_quoted_is_not_run(tmp_path: Path) -> None:
    text = "<!-- not run: it wants a cluster -->\n```sh\nfalse\n```\n"
    text += "\n<!-- from: Makefile -->\n```sh\nfalse\n```\n"
    assert typed(tmp_path, text) == []

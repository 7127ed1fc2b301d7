"""Documents in: from files, one by one; a bad one is named and stops nobody."""

from __future__ import annotations

import asyncio
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from world import LEASE, take_in

from agent.ingest import Source, files_under, ingest, start_delete, start_ingest, trouble_with_name
from agent.ingest import _main as command_line
from agent.services import Services

pytestmark = pytest.mark.anyio

APP = Path(__file__).resolve().parent.parent


async def test_a_file_is_added_then_unchanged_then_replaced(
    services: Services, tmp_path: Path
) -> None:
    (added,) = await take_in(services, tmp_path / "in", lease=LEASE)
    (first,) = await services.store.documents()
    (same,) = await take_in(services, tmp_path / "in", lease=LEASE)
    (still,) = await services.store.documents()
    (changed,) = await take_in(services, tmp_path / "in", lease=LEASE + " More.")
    (second,) = await services.store.documents()

    assert [o.status for o in (added, same, changed)] == ["added", "unchanged", "replaced"]
    assert added.id == same.id == changed.id == first.id
    assert still == first
    assert second.version != first.version
    assert (first.document, first.characters) == ("lease.md", len(LEASE))
    assert (first.bytes, first.pages, first.embedding) == (len(LEASE.encode()), 0, None)


async def test_of_ten_files_with_a_bad_one_nine_arrive_and_one_is_named_with_its_reason(
    services: Services, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for n in range(9):
        (folder / f"{n}.txt").write_text(f"Document number {n}.")
    (folder / "5-bad.pdf").write_bytes(b"%PDF-1.4 cut off")

    outcomes = [outcome async for outcome in ingest(services, files_under(folder))]

    (bad,) = [outcome for outcome in outcomes if outcome.status != "added"]
    assert (bad.document, bad.status) == ("5-bad.pdf", "failed")
    assert bad.reason
    assert bad.reason.startswith("The file ")
    assert bad.reason.endswith(".")
    assert len(await services.store.documents()) == 9


async def test_a_changed_file_that_is_bad_leaves_the_good_version_served(
    services: Services, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    await take_in(services, folder, lease=LEASE)
    (folder / "lease.md").write_bytes(b"")

    (outcome,) = [o async for o in ingest(services, [Source("lease.md", folder / "lease.md")])]

    assert outcome.status == "failed"
    (entry,) = await services.store.documents()
    assert entry.characters == len(LEASE)


@pytest.mark.parametrize(
    "name",
    [
        "../up.md",
        "a/../../up.md",
        "..\\up.md",
        "/etc/passwd.md",
        "\\server\\share.md",
        "line\nend.md",
        "zero\x00.md",
        "bell\x07.md",
        "right\u202eto-left.md",
        "half\ud800.md",
        "",
        "   ",
        "x" * 600 + ".md",
        "program.exe",
        "no-extension",
        ".md",
    ],
)
async def test_a_name_with_tricks_is_refused_in_a_sentence(
    name: str, services: Services, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("Text.")

    (outcome,) = [o async for o in ingest(services, [Source(name, file)])]

    assert outcome.status == "failed"
    assert outcome.reason
    assert outcome.reason.endswith(".")
    assert await services.store.documents() == []


@pytest.mark.parametrize(
    "name", ["a.md", "deep/er/a.PDF", "Müller & Söhne (1).docx", "契約.txt", "a..b.md", "C: x.csv"]
)
def test_an_unusual_name_is_fine(name: str) -> None:
    assert trouble_with_name(name) is None


def test_a_folder_gives_its_readable_files_by_their_paths_and_nothing_else(tmp_path: Path) -> None:
    for name in ("b/two.TXT", "a.md", "photo.png", "b/c/three.html"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "a-folder.md").mkdir()
    (tmp_path / "dangling.md").symlink_to(tmp_path / "gone.md")

    documents = [source.document for source in files_under(tmp_path)]

    assert documents == ["a.md", "b/c/three.html", "b/two.TXT"]
    assert [s.document for s in files_under(tmp_path / "a.md")] == ["a.md"]


async def test_an_upload_is_a_run_that_deletes_its_copies(
    services: Services, tmp_path: Path
) -> None:
    folder = tmp_path / "upload"
    folder.mkdir()
    (folder / "0").write_text(LEASE)
    (folder / "1").write_bytes(b"")
    sources = [Source("lease.md", folder / "0"), Source("empty.md", folder / "1")]

    run = start_ingest(services, sources, folder)
    await run.wait(10)

    assert [event.type for event in run.events] == ["files", "file", "file", "done"]
    assert [event.data["status"] for event in run.events[1:3]] == ["added", "failed"]
    assert not folder.exists()


async def test_a_deletion_is_a_run_that_passes_over_what_is_not_there(
    services: Services, tmp_path: Path
) -> None:
    outcomes = await take_in(services, tmp_path / "in", a="One.", b="Two.")
    ids = [str(outcome.id) for outcome in outcomes]
    await services.store.delete(ids[0])

    run = start_delete(services, ids)
    await run.wait(10)

    assert [event.type for event in run.events] == ["deletion", "file", "done"]
    assert await services.store.documents() == []


async def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "DATA_DIR": str(folder), "CHAT_MODEL": "none"}
    environment["PYTHONIOENCODING"] = "utf-8:strict"
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-B", "-m", "agent.ingest", *arguments],
        cwd=APP, env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


async def test_the_command_line_counts_outcomes_and_names_what_failed(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.md").write_text("Rent is due.")
    (tmp_path / "b.txt").write_text("Pets are fine.")

    first = await command(folder, str(tmp_path))
    assert (first.returncode, first.stdout.splitlines()[-1]) == (0, "2 added"), first.stderr

    (tmp_path / "a.md").write_text("Rent is not due.")
    (tmp_path / "c.pdf").write_bytes(b"no PDF")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/d\xff.txt")).write_text("A name of no letters.")
    second = await command(folder, str(tmp_path))

    assert second.returncode == 1
    assert "Traceback" not in second.stderr
    *_, counts, c, d = second.stdout.splitlines()
    assert counts == "1 replaced, 1 unchanged, 2 failed"
    assert c.startswith("c.pdf: The file ")
    assert d.startswith("d\\udcff.txt: The file's name holds ")


async def test_the_command_line_says_who_has_the_documents_open(
    services: Services, folder: Path, tmp_path: Path
) -> None:
    await take_in(services, tmp_path / "in", lease=LEASE)
    (folder / "qdrant").symlink_to(folder)  # where the command line expects the documents

    result = await command(folder, str(tmp_path / "in"))

    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "if another process has them open, stop it" in result.stdout


def test_the_command_line_without_documents_says_what_it_wants(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asyncio.run(command_line(tmp_path)) == 1
    assert capsys.readouterr().out.startswith(f"No documents in {tmp_path}: it holds no .pdf")


@pytest.mark.parametrize("arguments", [[], ["/not/there"], ["/tmp", "/tmp"]])
@pytest.mark.filterwarnings("ignore:'agent.ingest' found in sys.modules")
def test_the_command_line_says_how_it_is_used(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ingest", *arguments])

    with pytest.raises(SystemExit, match="2"):
        runpy.run_module("agent.ingest", run_name="__main__")
    assert "usage: python -m agent.ingest [-h] dir" in capsys.readouterr().err

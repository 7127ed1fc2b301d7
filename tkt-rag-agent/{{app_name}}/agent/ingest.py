"""How documents get in: read, cut, index, store. Also `python -m agent.ingest DIR`.

One bad file does not stop the others; it is named with its reason. The same content again changes
nothing; changed content takes the place of the old at one stroke (see `store.py`).
"""

import argparse
import asyncio
import hashlib
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from agent import extract, index, split
from agent.access import User
from agent.errors import Refused, Unavailable
from agent.runs import Event, Run
from agent.services import Services, connect
from agent.settings import PRIVATE, read
from agent.store import Entry

LONGEST_NAME = 500
LEFT_BEHIND_S = 24 * 3600
"""No upload takes that long."""


@dataclass(frozen=True)
class Source:
    """A file on its way in: the name it is cited by, and where its bytes are."""

    document: str
    path: Path


@dataclass(frozen=True)
class Outcome:
    """What became of one file: `added`, `replaced`, `unchanged`, `failed` or `deleted`."""

    document: str
    status: str
    id: str | None = None
    reason: str | None = None


def trouble_with_name(document: str) -> str | None:
    """Why a document cannot have this name, None when it can; names are labels, never opened."""
    path = PurePosixPath(document.replace("\\", "/"))
    if not document.strip() or not path.name:
        return "The file has no name; give it one."
    if path.is_absolute() or ".." in path.parts or not document.isprintable():
        return "The file's name holds '..', a leading '/' or control characters; rename it."
    if len(document) > LONGEST_NAME:
        return f"The file's name is longer than {LONGEST_NAME} characters; shorten it."
    if path.suffix.lower() not in extract.FORMATS:
        return f"Files of type '{path.suffix}' cannot be read; use {' '.join(extract.FORMATS)}."
    return None


async def ingest(services: Services, sources: Sequence[Source]) -> AsyncIterator[Outcome]:
    """Take the files in, one after the other; gives the outcome of each as it is there."""
    for source in sources:
        try:
            outcome = await _take_in(services, source)
        except extract.Unreadable as error:
            outcome = Outcome(source.document, "failed", reason=f"The file {error}.")
        except (Refused, Unavailable, OSError) as error:
            outcome = Outcome(source.document, "failed", reason=str(error))
        yield outcome


def new_folder(services: Services) -> Path:
    """Where an upload waits until it is taken in; what a crash leaves is swept away later."""
    waiting = services.settings.data_dir / "uploads"
    waiting.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(dir=waiting))


def sweep(services: Services) -> None:
    """Remove uploads, and copies that the page made of them, that are there since yesterday."""
    for name in ("uploads", "page"):
        for path in (services.settings.data_dir / name).glob("*"):
            if time.time() - path.stat().st_mtime > LEFT_BEHIND_S:
                shutil.rmtree(path, ignore_errors=True)


def allow(services: Services, user: User, size: int) -> None:
    """Whether `user` may send `size` bytes now; `Refused` says why not."""
    services.limits.request(user)
    services.limits.run(user, services.runs)
    services.limits.upload(user, size)


def start_ingest(
    services: Services, sources: Sequence[Source], folder: Path | None = None, owner: str = ""
) -> Run:
    """A run that takes `sources` in, and in the end deletes the `folder` they were copied to."""

    async def work(run: Run) -> AsyncGenerator[Event, None]:
        try:
            async for outcome in ingest(services, sources):
                yield Event("file", vars(outcome))
        finally:
            if folder:
                shutil.rmtree(folder, ignore_errors=True)
        yield Event("done", {})

    run = services.runs.start(lambda run: services.measures.files(work(run)), None, owner)
    run.add(Event("files", {"documents": [source.document for source in sources]}))
    return run


def start_delete(services: Services, ids: Sequence[str], owner: str = "") -> Run:
    """A run that removes documents; ids that are not there any more are passed over."""

    async def work(run: Run) -> AsyncGenerator[Event, None]:
        for document_id in ids:
            if entry := await services.store.delete(document_id):
                yield Event("file", vars(Outcome(entry.document, "deleted", document_id)))
        yield Event("done", {})

    run = services.runs.start(lambda run: services.measures.files(work(run)), None, owner)
    run.add(Event("deletion", {"documents": list(ids)}))
    return run


async def _take_in(services: Services, source: Source) -> Outcome:
    if trouble := trouble_with_name(source.document):
        raise Refused(trouble)
    data = await asyncio.to_thread(source.path.read_bytes)
    digest = hashlib.sha256(data + _recipe()).hexdigest()
    old = await services.store.entry(source.document)
    if old and old.sha256 == digest:
        return Outcome(source.document, "unchanged", old.id)
    text = await asyncio.to_thread(extract.extract, source.document, data)
    passages = await asyncio.to_thread(split.split, text)
    entry = Entry(
        document=source.document,
        sha256=digest,
        bytes=len(data),
        pages=max((mark.page or 0 for mark in text.marks), default=0),
        characters=len(text.text),
        passages=len(passages),
        opening=index.opening(passages),
        added_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    await services.store.put(entry, passages)
    return Outcome(source.document, "replaced" if old else "added", entry.id)


def _recipe() -> bytes:
    """The code that reads, cuts and indexes: once it changes, a known file is taken in anew."""
    return b"".join(Path(str(m.__file__)).read_bytes() for m in (extract, split, index))


def files_under(folder: Path) -> list[Source]:
    """The readable files of a folder and below it; a document's name is its path in the folder."""
    if folder.is_file():
        return [Source(folder.name, folder)]
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    found = [path for path in paths if path.suffix.lower() in extract.FORMATS]
    return [Source(path.relative_to(folder).as_posix(), path) for path in found]


async def _main(folder: Path) -> int:
    sources = files_under(folder)
    if not sources:
        print(f"No documents in {folder}: it holds no {' '.join(extract.FORMATS)}.")
        return 1
    settings = read()
    if settings.documents == "private":
        print(PRIVATE)
        return 1
    services = connect(settings)
    try:
        await services.store.tend()
        return await _show(services, sources)
    except Unavailable as error:
        print(error)
        return 1
    finally:
        await services.close()


async def _show(services: Services, sources: Sequence[Source]) -> int:
    counts: dict[str, int] = {}
    failed = []
    with tqdm(total=len(sources), unit="file", file=sys.stdout) as bar:
        async for outcome in ingest(services, sources):
            bar.update()
            counts[outcome.status] = counts.get(outcome.status, 0) + 1
            if outcome.reason:
                failed.append(f"{outcome.document}: {outcome.reason}")
    await services.store.optimize()
    print(", ".join(f"{count} {status}" for status, count in counts.items()))
    print("\n".join(failed), end="\n" if failed else "")
    return 1 if failed else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m agent.ingest",
        description="Takes documents in; known ones are passed over.",
    )
    parser.add_argument("dir", type=Path, help="a folder of documents, or a file")
    folder = parser.parse_args().dir
    if not folder.exists():
        parser.error(f"{folder} is not there")
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr] # odd file names
    sys.exit(asyncio.run(_main(folder)))

"""Hugging Face's hub as `huggingface_hub` asks it: models, their files, who is let in.

    python -m tests.doubles.hub --port 8090
    HF_ENDPOINT=http://127.0.0.1:8090 hf download ann/tiny

It serves every file itself, where the real one sends the client of a large one to its store, and
knows nothing of Xet. A tree lists files alone, without folders. `fail`:

    429   every path answers so, with the wait in `RateLimit`
    500   every path answers so
    hang  every path takes the request and says nothing
    cut   the connection closes in the middle of what was asked of a file
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.doubles import serve
from tests.doubles.control import Double, hang
from tests.doubles.serve import Cut, Stream

LARGE = (".bin", ".gguf", ".model", ".onnx", ".pt", ".safetensors")
"""Names of files that the hub keeps with Git LFS."""
STRANGER = "hf_stranger"
"""A token of somebody whom no gated model has let in."""
CHUNK = 64 * 1024
ERRORS = {
    "429": (429, "We had to rate limit your IP. To continue using our service, log in."),
    "500": (500, "Internal Error - We're working hard to fix this as soon as possible!"),
}
TINY = {"config.json": b'{"model_type": "tiny"}', "model.safetensors": bytes(100_000)}

Files = dict[str, bytes]
Handler = Callable[[Request, str, Files], Response]


@dataclass(frozen=True)
class Received:
    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case."""


class Hub(Double):
    """The hub; all attributes can be changed while it runs.

    models: files of each model, {"owner/name": {"config.json": b"{}"}}; their only branch is
    `main`, and its commit changes with them.
    gated: ids whose files are for `token` alone; as on the real hub, everybody sees that such a
    model exists and what files it has.
    bytes_per_second: of each file being sent; None is as fast as can be.
    requests: what came, refused requests too. cuts: files that were cut.
    """

    failures = (*ERRORS, "hang", "cut")
    settable = ("fail", "gated", "token", "bytes_per_second")
    counters = ("requests", "cuts")

    def __init__(
        self,
        models: dict[str, Files] | None = None,
        *,
        gated: set[str] | None = None,
        token: str = "hf_double",
        bytes_per_second: float | None = None,
        fail: str | None = None,
    ) -> None:
        super().__init__(fail)
        self.models = {"ann/tiny": TINY} if models is None else models
        self.gated = gated or set()
        self.token = token
        self.bytes_per_second = bytes_per_second
        self.requests: list[Received] = []
        self.cuts = 0
        model = "/api/models/{owner}/{name}"
        self.app = Starlette(
            debug=True,  # a 500 shows its traceback
            routes=[
                self.control(),
                Route("/api/whoami-v2", self._who),
                self._route(model, self._info),
                self._route(f"{model}/revision/{{revision}}", self._info),
                self._route(f"{model}/tree/{{revision}}", self._tree),
                self._route(f"{model}/auth-check", self._auth_check),
                self._route("/{owner}/{name}/resolve/{revision}/{file:path}", self._file),
            ],
        )

    def _route(self, path: str, handler: Handler) -> Route:
        """`handler` behind what all paths of a model share."""

        async def endpoint(request: Request) -> Response:
            if failed := await self._received(request):
                return failed
            asked = request.path_params
            model = f"{asked['owner']}/{asked['name']}"
            if refused := self._refused(request, model):
                return refused
            files = self.models[model]
            if asked.get("revision", "main") not in ("main", _commit(model, files)):
                message = f"Invalid rev id: {asked['revision']}"
                return _error(404, message, "RevisionNotFound")
            return handler(request, model, files)

        return Route(path, endpoint)

    async def _received(self, request: Request) -> Response | None:
        headers = dict(request.headers)
        self.requests.append(Received(request.method, request.url.path, headers))
        if self.fail == "hang":
            return await hang(request)
        if self.fail not in ERRORS:
            return None
        status, message = ERRORS[self.fail]
        failed = _error(status, message)
        if self.fail == "429":
            failed.headers["RateLimit"] = '"api";r=0;t=1'
            failed.headers["RateLimit-Policy"] = '"fixed window";"api";q=500;w=300'
        return failed

    def _refused(self, request: Request, model: str) -> Response | None:
        token = _token(request)
        if token not in ("", self.token, STRANGER):
            return _error(401, "Invalid credentials in Authorization header")
        if model in self.models:
            return None
        if token:
            return _error(404, "Repository not found", "RepoNotFound")
        # The real hub leaves the code out, and its client makes it up, but for https alone.
        return _error(401, "Invalid username or password.", "RepoNotFound")

    def _closed(self, request: Request, model: str) -> Response | None:
        """The refusal of what is in a gated model."""
        token = _token(request)
        if model not in self.gated or token == self.token:
            return None
        start = f"Access to model {model} is restricted"
        if token:
            end = f"you are not in the authorized list. Visit {request.base_url}{model} to ask."
            return _error(403, f"{start} and {end}", "GatedRepo")
        end = "You must have access to it and be authenticated to access it. Please log in."
        return _error(401, f"{start}. {end}", "GatedRepo")

    async def _who(self, request: Request) -> Response:
        if failed := await self._received(request):
            return failed
        token = _token(request)
        if not token:
            return _error(401, "Invalid username or password.")
        if token not in (self.token, STRANGER):
            return _error(401, "Invalid credentials in Authorization header")
        access = {"accessToken": {"displayName": "double", "role": "read"}, "type": "access_token"}
        name = "ann" if token == self.token else "eve"
        return JSONResponse({"type": "user", "name": name, "orgs": [], "auth": access})

    def _auth_check(self, request: Request, model: str, _: Files) -> Response:
        return self._closed(request, model) or JSONResponse({})

    def _info(self, request: Request, model: str, files: Files) -> Response:
        siblings: list[dict[str, Any]] = [{"rfilename": name} for name in files]
        if request.query_params.get("blobs") in ("true", "True", "1"):
            for sibling in siblings:
                sibling |= _blob(sibling["rfilename"], files)
        gated = "manual" if model in self.gated else False
        info: dict[str, Any] = {"id": model, "modelId": model, "author": model.partition("/")[0]}
        info |= {"sha": _commit(model, files), "private": False, "disabled": False}
        info |= {"gated": gated, "downloads": 0, "tags": [], "siblings": siblings}
        return JSONResponse(info | {"usedStorage": sum(map(len, files.values()))})

    def _tree(self, request: Request, _: str, files: Files) -> Response:
        deep = request.query_params.get("recursive") in ("true", "True", "1")
        listed = []
        for name in [name for name in files if deep or "/" not in name]:
            blob = _blob(name, files)
            entry = {"type": "file", "path": name, "oid": blob["blobId"], "size": blob["size"]}
            if lfs := blob.get("lfs"):
                entry["lfs"] = {"oid": lfs.pop("sha256")} | lfs
            listed.append(entry)
        return JSONResponse(listed)

    def _file(self, request: Request, model: str, files: Files) -> Response:
        if closed := self._closed(request, model):
            return closed
        name, commit = request.path_params["file"], {"X-Repo-Commit": _commit(model, files)}
        if name not in files:
            return _error(404, "Entry not found", "EntryNotFound", commit)
        data, blob = files[name], _blob(name, files)
        headers = commit | {"Accept-Ranges": "bytes", "ETag": f'"{blob["blobId"]}"'}
        if lfs := blob.get("lfs"):
            etag = f'"{lfs["sha256"]}"'
            headers |= {"ETag": etag, "X-Linked-ETag": etag, "X-Linked-Size": str(len(data))}
        start, end = _range(request.headers.get("range"), len(data))
        if start > end:
            return Response(b"", 416, {"Content-Range": f"bytes */{len(data)}"})
        status = 200
        if (start, end) != (0, len(data)):
            status, headers["Content-Range"] = 206, f"bytes {start}-{end - 1}/{len(data)}"
        headers["Content-Length"] = str(end - start)
        if request.method == "HEAD":
            return Response(None, status, headers, "application/octet-stream")
        answer = Stream(self._paced(data[start:end]), status, "application/octet-stream")
        answer.headers.update(headers)
        return answer

    async def _paced(self, data: bytes) -> AsyncGenerator[bytes, None]:
        """Each piece at its time since the start, so that delays do not add up."""
        begin, pace = time.monotonic(), self.bytes_per_second
        size = max(1, min(CHUNK, int(pace / 20))) if pace else CHUNK
        cut = self.fail == "cut"
        yield b""  # headers do not wait
        for at in range(0, len(data) // 2 if cut else len(data), size):
            piece = data[at : at + size]
            if pace:
                due = begin + (at + len(piece)) / pace
                await asyncio.sleep(max(0, due - time.monotonic()))
            yield piece[: len(data) // 2 - at] if cut else piece
        if cut:
            self.cuts += 1
            raise Cut


def _token(request: Request) -> str:
    return request.headers.get("authorization", "").removeprefix("Bearer ")


def _blob(name: str, files: Files) -> dict[str, Any]:
    """How git names the file: a large one by the pointer to it."""
    data = files[name]
    if not name.endswith(LARGE):
        return {"blobId": _git(data), "size": len(data)}
    digest = _sha256(data)
    version = "version https://git-lfs.github.com/spec/v1"
    pointer = f"{version}\noid sha256:{digest}\nsize {len(data)}\n".encode()
    lfs = {"sha256": digest, "size": len(data), "pointerSize": len(pointer)}
    return {"blobId": _git(pointer), "size": len(data), "lfs": lfs}


@lru_cache(64)  # a large file is asked for often
def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@lru_cache(64)
def _git(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _commit(model: str, files: Files) -> str:
    digest = hashlib.sha1(model.encode())
    for name in sorted(files):
        digest.update(f"{name} {_git(files[name])}\n".encode())
    return digest.hexdigest()


def _range(header: str | None, size: int) -> tuple[int, int]:
    """First byte and the one after the last; the first is the greater where nothing is left."""
    found = re.fullmatch(r"bytes=(\d+)-(\d*)", header or "")
    if not found:
        return 0, size
    start, last = int(found[1]), int(found[2] or size)
    return (start, min(last + 1, size)) if start < size else (size + 1, size)


def _error(
    status: int, message: str, code: str | None = None, more: dict[str, str] | None = None
) -> Response:
    headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {}) | (more or {})
    return JSONResponse({"error": message}, status, headers)


if __name__ == "__main__":
    by_hand_port = serve.arguments(__doc__, 8090).parse_args().port
    serve.by_hand(Hub().app, by_hand_port)

"""A git server over HTTP, as Gitea is one: git's own `http-backend` behind a user and a password.

    python -m tests.doubles.git_server --port 8095 --folder /tmp/git team/my-app
    git push http://owner:git-double@127.0.0.1:8095/team/my-app.git main

Every repository is private. None appears by itself: `create` makes one, as the platform asks Gitea
to. It knows no ssh, no LFS and no webhooks.
"""

from __future__ import annotations

import asyncio
import base64
import os
import subprocess
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.doubles import serve


class GitServer:
    """The server of all repositories in `folder`."""

    def __init__(self, folder: Path, user: str = "owner", password: str = "git-double") -> None:
        self.folder, self.user, self.password = folder, user, password
        route = Route("/{path:path}", self._answer, methods=["GET", "POST"])
        self.app = Starlette(routes=[route])

    def create(self, name: str) -> Path:
        """An empty repository of a name such as "team/my-app", whose branch is main."""
        repository = self.folder / f"{name}.git"
        init = ["git", "init", "--quiet", "--bare", "--initial-branch", "main", str(repository)]
        subprocess.run(init, check=True)
        return repository

    def address(self, url: str, name: str, password: str | None = None) -> str:
        """Where git finds a repository of the server at `url`, with the password or another."""
        given = self.password if password is None else password
        return f"{url.replace('://', f'://{self.user}:{given}@')}/{name}.git"

    async def _answer(self, request: Request) -> Response:
        if request.headers.get("authorization") != self._expected():
            return Response("Unauthorized", 401, {"WWW-Authenticate": 'Basic realm="git"'})
        body = await request.body()
        said = await asyncio.to_thread(self._backend, request, body)
        return _response(said)

    def _expected(self) -> str:
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()

    def _backend(self, request: Request, body: bytes) -> bytes:
        headers = {f"HTTP_{k.upper().replace('-', '_')}": v for k, v in request.headers.items()}
        asked = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.folder),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REMOTE_USER": self.user,
            "REQUEST_METHOD": request.method,
            "PATH_INFO": request.url.path,
            "QUERY_STRING": request.url.query,
            "CONTENT_TYPE": request.headers.get("content-type", ""),
            "CONTENT_LENGTH": str(len(body)),
        }
        backend = ["git", "http-backend"]
        return subprocess.run(
            backend, input=body, env=headers | asked, stdout=subprocess.PIPE, check=True
        ).stdout


def _response(said: bytes) -> Response:
    """What a CGI program said, headers first, as a response; without a status it is a 200."""
    head, _, body = said.partition(b"\r\n\r\n")
    lines = [line.split(": ", 1) for line in head.decode().split("\r\n")]
    headers = {name: value for name, value in lines}
    status = int(headers.pop("Status", "200 OK").split()[0])
    return Response(body, status, headers)


def main() -> None:
    options = serve.arguments(__doc__, 8095)
    options.add_argument("--folder", type=Path, required=True)
    options.add_argument("repositories", nargs="+", help="made empty, each owner/name")
    given = options.parse_args()
    server = GitServer(given.folder)
    for name in given.repositories:
        server.create(name)
    serve.by_hand(server.app, given.port)


if __name__ == "__main__":
    main()

"""Registered models of MLflow: which version is meant, and where the platform has mounted it.

A model is named as MLflow names it: `models:/name` is the newest version, `models:/name/3` a
certain one, `models:/name@champion` the one that has this alias.
"""

import re
from pathlib import Path
from typing import Any

import httpx

from agent.errors import Refused, Unavailable

_NAME = re.compile(r"models:/([^/@]+)(?:/(\d+)|@([\w.-]+))?")
API = "api/2.0/mlflow"


class Registry:
    """MLflow's REST API, and the folder where its artefacts are mounted."""

    def __init__(self, http: httpx.AsyncClient, mounted: Path) -> None:
        self._http = http
        self._mounted = mounted

    async def folder(self, uri: str) -> tuple[Path, str]:
        """(folder, "name, version 3") of `models:/...`."""
        parts = _NAME.fullmatch(uri)
        if not parts:
            raise Refused(f"{uri} is no models:/name, models:/name/3 or models:/name@alias.")
        name, number, alias = parts.groups()
        version = await self._version(name, number, alias)
        if version is None:
            raise Refused(f"MLflow has no {uri}; look at its registered models.")
        place = await self._artifacts(version)
        return self._find(place, uri), f"{name}, version {version['version']}"

    async def mirror(self, model: str) -> tuple[Path, str] | None:
        """Where the platform mirrors a model of the hub, if it does and the files are mounted."""
        try:
            return await self.folder(f"models:/{model.replace('/', '-')}")
        except Refused:
            return None

    async def check(self) -> str:
        await self._get("registered-models/search", max_results=1)
        return f"MLflow at {self._http.base_url}"

    async def _version(self, name: str, number: str, alias: str) -> dict[str, Any] | None:
        if number:
            found = await self._get("model-versions/get", name=name, version=number)
        elif alias:
            found = await self._get("registered-models/alias", name=name, alias=alias)
        else:
            of_name = f"name = '{name}'"
            newest = {"filter": of_name, "order_by": "version_number DESC", "max_results": 1}
            listed = await self._get("model-versions/search", **newest)
            versions = (listed or {}).get("model_versions", [])
            return dict(versions[0]) if versions else None
        return dict(found["model_version"]) if found else None

    async def _artifacts(self, version: dict[str, Any]) -> str:
        """The path of a version's files among MLflow's artefacts."""
        which = {"name": version["name"], "version": version["version"]}
        found = await self._get("model-versions/get-download-uri", **which)
        uri = str((found or {}).get("artifact_uri") or version["source"])
        if logged := re.fullmatch(r"models:/(m-\w+)", uri):  # since MLflow 3
            model = await self._get(f"logged-models/{logged[1]}") or {}
            uri = str(model["model"]["info"]["artifact_uri"])
        return re.sub(r"^[\w+-]+:/+", "", uri)

    def _find(self, place: str, uri: str) -> Path:
        """Where `place` is mounted: as it is, or less its first parts (a bucket, a host)."""
        parts = [part for part in Path(place).parts if part not in ("/", "..")]
        roots = (self._mounted, self._mounted / "artifacts")
        for skipped in range(max(1, len(parts) - 1)):  # the last one alone is called as many are
            for root in roots:
                if (folder := root.joinpath(*parts[skipped:])).is_dir():
                    return folder
        raise Refused(f"MLflow has {uri}, but {self._mounted} does not hold its files ({place}).")

    async def _get(self, path: str, **query: Any) -> dict[str, Any] | None:
        """None for what MLflow does not have."""
        try:
            answer = await self._http.get(f"{API}/{path}", params=query)
            if answer.status_code in (400, 404):
                return None
            return dict(answer.raise_for_status().json())
        except (httpx.HTTPError, ValueError) as error:
            said = str(error).partition("\n")[0] or type(error).__name__
            raise Unavailable(
                f"MLflow at {self._http.base_url} does not answer as it should ({said}); check "
                "MLFLOW_TRACKING_URI.",
                "mlflow",
            ) from error

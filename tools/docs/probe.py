"""What an app can tell of itself, as JSON: run by `tables.py` with the app's Python, in its folder.

{"settings": [...], "routes": [...], "metrics": [...]}
"""

import inspect
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path.cwd()))

from prometheus_client import generate_latest

import app as door
from agent import measures
from agent.limits import Limits
from agent.runs import Runs
from agent.settings import HERE, Settings


def settings() -> list[dict[str, Any]]:
    """Each with its name, kind, default as it would stand in app.env, and what it is."""
    found = []
    for name, field in Settings.model_fields.items():
        default = field.get_default()
        secret = "Secret" in str(field.annotation)
        value = "" if secret else _shown(default)
        about = " ".join((field.description or "").split())
        found.append({"name": name.upper(), "kind": _kind(field), "default": value, "about": about})
    return found


def _shown(value: Any) -> str:
    if isinstance(value, Path):
        return str(value.relative_to(HERE)) if value.is_relative_to(HERE) else str(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _kind(field: Any) -> str:
    choices = getattr(field.annotation, "__args__", None)
    if choices and all(isinstance(choice, str) for choice in choices):
        return ", ".join(f"`{choice}`" for choice in choices)
    name = getattr(field.annotation, "__name__", str(field.annotation))
    kind = {"SecretStr": "secret", "bool": "true or false", "str": "text", "Path": "folder"}
    kind |= {"int": "whole number", "float": "number"}
    bounds = filter(None, map(_bound, field.metadata))
    return ", ".join([kind.get(name, name), *bounds])


def _bound(rule: Any) -> str:
    """ "" for a rule that is no bound."""
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    for name, sign in signs.items():
        if (value := getattr(rule, name, None)) is not None:
            return f"{sign} {value:g}"
    return ""


def routes() -> list[dict[str, Any]]:
    """Each with method, path, the first paragraph of what it does, and what is sent."""
    schema = door.create_app().openapi()
    found = []
    for path, methods in schema["paths"].items():
        for method, route in methods.items():
            about = route.get("description", "").split("\n\n")[0]
            found.append(
                {
                    "call": f"{method.upper()} {path}",
                    "about": " ".join(about.split()) or route.get("summary", ""),
                    "sent": _sent(route, schema),
                    "status": sorted(c for c in route["responses"] if c.startswith("2")),
                }
            )
    return found


def _sent(route: dict[str, Any], schema: dict[str, Any]) -> list[str]:
    """Names of fields and parameters; one that must be there ends in `*`."""
    named = [p for p in route.get("parameters", []) if p["in"] != "path"]
    found = [p["name"] + "*" * p.get("required", False) for p in named]
    for content in route.get("requestBody", {}).get("content", {}).values():
        body = content.get("schema", {})
        if "$ref" in body:
            body = schema["components"]["schemas"][body["$ref"].rsplit("/", 1)[-1]]
        required = body.get("required", [])
        found += [name + "*" * (name in required) for name in body.get("properties", {})]
    return found


def metrics() -> list[dict[str, Any]]:
    """Each that stands at /metrics: name, type, labels and what it counts."""
    given = {"runs": Runs(), "limits": Limits(0, 0, 0)}
    wanted = inspect.signature(measures.Measures).parameters
    made = measures.Measures(*[given[name] for name in wanted])  # type: ignore[arg-type]
    registry = made._registry
    labels = {family.name: getattr(family, "_labelnames", ()) for family in registry.collect()}
    for collector, names in registry._collector_to_names.items():
        labels |= dict.fromkeys(names, getattr(collector, "_labelnames", ()))
    found: dict[str, dict[str, Any]] = {}
    for line in generate_latest(registry).decode().splitlines():
        mark, kind, name, rest = [*line.split(" ", 3), "", "", ""][:4]
        if (mark, kind) == ("#", "HELP"):
            found[name] = {"name": name, "about": rest, "labels": _of(labels, name)}
        if (mark, kind) == ("#", "TYPE"):
            found[name]["type"] = rest
    return [metric for metric in found.values() if not metric["name"].endswith("_created")]


def _of(labels: dict[str, Any], name: str) -> list[str]:
    return list(labels.get(name) or labels.get(name.removesuffix("_total")) or ())


if __name__ == "__main__":
    print(json.dumps({"settings": settings(), "routes": routes(), "metrics": metrics()}))

"""What an owner and their callers rely on in a template, read from its files without running them.

    python tools/surface.py tkt-rag-agent              # all of it
    python tools/surface.py ../older/tkt-rag-agent tkt-rag-agent    # what the second no longer has

Settings, routes, tools over MCP, commands, questions, the manifest's secrets, the packages of the
image and how it installs them.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

Surface = dict[str, dict[str, str]]
"""By "setting CHAT_MODEL", "route GET /ready" and so on; what CHANGED names of it, if any."""
CHANGED = {
    "type": "retyped",
    "choices": "choices",
    "validator": "validator",
    "command": "command",
    "default": "default",
}
"""What a change of each is called; the first that differs counts."""
VERBS = {"get", "post", "put", "patch", "delete"}


def read(folder: Path) -> Surface:
    """The surface of the template in `folder`; ValueError names what cannot be read."""
    app = folder / "{{app_name}}"
    asked = yaml.safe_load((folder / "copier.yml").read_text())
    manifest = yaml.safe_load((folder / "manifest.yaml").read_text())
    found: Surface = dict(_settings(ast.parse((app / "agent" / "settings.py").read_text())))
    for path in sorted([*app.glob("*.py"), *app.glob("agent/*.py")]):
        module = ast.parse(path.read_text())
        found |= {f"route {route}": {} for route in _routes(module, path)}
        found |= {f"tool {name}": {} for name in _tools(module)}
        if path.parent.name == "agent" and _is_command(module):
            found[f"command agent.{path.stem}"] = {}
    for name, question in asked.items():
        if not name.startswith("_"):
            found[f"question {name}"] = {k: str(question[k]) for k in CHANGED if k in question}
    found |= {f"secret {secret['name']}": {} for secret in manifest["secrets"]}
    return found | _packages(app)


def changes(old: Surface, new: Surface) -> dict[str, str]:
    """What `new` breaks, by name: "removed" or a word of CHANGED."""
    found = {}
    for name, was in old.items():
        now = new.get(name)
        differ = [k for k in CHANGED if now is not None and was.get(k) != now.get(k)]
        if now is None:
            found[name] = "removed"
        elif differ:
            found[name] = CHANGED[differ[0]]
    return found


def _packages(app: Path) -> Surface:
    """What requirements.txt pins, and the options of pip with which the Dockerfile installs it."""
    names = re.findall(r"^([\w.-]+)==", (app / "requirements.txt").read_text(), re.MULTILINE)
    docker = (app / "Dockerfile.jinja").read_text()
    [options] = re.findall(r"pip install (.*)-r /requirements\.txt", docker)
    packages: Surface = {f"package {name}": {} for name in names}
    return packages | {"install requirements.txt": {"command": f"pip install {options.strip()}"}}


def _settings(module: ast.Module) -> Iterator[tuple[str, dict[str, str]]]:
    """The fields of the class Settings; a bound is part of the type."""
    constants = _constants(module)
    classes = [node for node in module.body if isinstance(node, ast.ClassDef)]
    body = next(node.body for node in classes if node.name == "Settings")
    for node in body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            default, bounds = _default(node.value)
            kind = ", ".join([ast.unparse(node.annotation), *bounds])
            shown = ast.unparse(_Filled(constants).visit(default)) if default else ""
            yield f"setting {node.target.id.upper()}", {"type": kind, "default": shown}


def _default(value: ast.expr | None) -> tuple[ast.expr | None, list[str]]:
    if not (isinstance(value, ast.Call) and _name(value.func) == "Field"):
        return value, []
    named = {str(word.arg): word.value for word in value.keywords}
    default = value.args[0] if value.args else named.pop("default", None)
    return default, [f"{name}={ast.unparse(bound)}" for name, bound in sorted(named.items())]


def _constants(module: ast.Module) -> dict[str, ast.expr]:
    return {
        node.targets[0].id: node.value
        for node in module.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
    }


class _Filled(ast.NodeTransformer):
    """Puts a module's constants in the place of their names, so that their change is seen."""

    def __init__(self, constants: dict[str, ast.expr]) -> None:
        self.constants = constants

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.constants.get(node.id, node)


def _routes(module: ast.Module, path: Path) -> Iterator[str]:
    """ "GET /api/runs", or a path alone where every method is taken."""
    prefixes = _prefixes(module)
    for call in (node for node in ast.walk(module) if isinstance(node, ast.Call)):
        owner = _name(call.func.value) if isinstance(call.func, ast.Attribute) else ""
        verb = _name(call.func)
        words = {str(word.arg): word.value for word in call.keywords}
        if verb == "include_router" and "prefix" in words:
            raise ValueError(f"{path}: give the prefix to APIRouter; here it is not read.")
        if verb in {"Route", "mount"}:
            yield _text(call.args[0], path)
        elif owner in {"app", *prefixes} and verb in {*VERBS, "api_route"}:
            methods = [verb.upper()] if verb in VERBS else ast.literal_eval(words["methods"])
            for method in methods:
                yield f"{method} {prefixes.get(owner, '')}{_text(call.args[0], path)}"


def _prefixes(module: ast.Module) -> dict[str, str]:
    """By the name of a router."""
    found = {}
    for node in module.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            words = {word.arg: word.value for word in node.value.keywords}
            if _name(node.value.func) == "APIRouter":
                prefix = words.get("prefix")
                found[_name(node.targets[0])] = ast.literal_eval(prefix) if prefix else ""
    return found


def _text(node: ast.expr, path: Path) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    raise ValueError(f"{path}:{node.lineno}: a route's path must be a plain text to be read.")


def _tools(module: ast.Module) -> Iterator[str]:
    """Public methods of the class that the door to MCP hands out."""
    for node in module.body:
        if isinstance(node, ast.ClassDef) and node.name == "_Tools":
            for method in node.body:
                if isinstance(method, ast.AsyncFunctionDef) and not method.name.startswith("_"):
                    yield method.name


def _is_command(module: ast.Module) -> bool:
    tests = [ast.unparse(node.test) for node in module.body if isinstance(node, ast.If)]
    return "__name__ == '__main__'" in tests


def _name(node: ast.expr) -> str:
    return getattr(node, "attr", None) or getattr(node, "id", "")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("newer", type=Path, nargs="?")
    given = parser.parse_args()
    found = read(given.folder)
    shown = changes(found, read(given.newer)) if given.newer else found
    print(json.dumps(shown, indent=2))


if __name__ == "__main__":
    main()

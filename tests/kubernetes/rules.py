"""What a cluster, its quota or an operator would refuse in the objects of an app: a sentence each.

Schemas are Kubernetes' own, of the platform's versions, from PyPI's kubernetes-validate. An
HTTPRoute is no part of Kubernetes and has no schema there: HTTP_ROUTE is written by hand, for the
fields that the platform writes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

import jsonschema
import kubernetes_validate
from kubernetes_validate import utils

from tests.kubernetes.objects import Object

KUBERNETES = {"2025": "1.34", "2026": "1.35"}
LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
SERVICE = r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?"  # DNS-1035
HOST = rf"(?=.{{1,253}}\Z){LABEL}(\.{LABEL})*"
VALUE = r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?"
VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"
IMAGE = rf"{LABEL}(\.{LABEL})*(:\d+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+:[\w][\w.-]{{0,127}}"
SHORT = ("Namespace", "Deployment", "PersistentVolumeClaim", "Job")
"""Kinds whose names become a label or a name of a pod, which have 63 characters."""
UNITS = {"m": 1e-3, "": 1.0, "Mi": 2.0**20, "Gi": 2.0**30}

utils.schema_contents = cache(utils.schema_contents)  # else 1.5 MB are parsed for each object


def _closed(required: list[str], **properties: Any) -> Object:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": required,
        "properties": properties,
    }


def _some(items: Object) -> Object:
    return {"type": "array", "minItems": 1, "maxItems": 16, "items": items}


TEXT = {"type": "string", "minLength": 1}
PATH = {"type": "string", "pattern": "^/", "maxLength": 1024}
NUMBER = {"type": "integer", "minimum": 1, "maximum": 65535}
MATCH = _closed(["path"], path=_closed(["type", "value"], type={"const": "PathPrefix"}, value=PATH))
BACKEND = _closed(["name", "port"], name=TEXT, port=NUMBER)
RULE = _closed(["matches", "backendRefs"], matches=_some(MATCH), backendRefs=_some(BACKEND))
PARENT = _closed(["name", "namespace", "sectionName"], name=TEXT, namespace=TEXT, sectionName=TEXT)
HTTP_ROUTE = _closed(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "gateway.networking.k8s.io/v1"},
    kind={"const": "HTTPRoute"},
    metadata={"type": "object"},
    spec=_closed(
        ["parentRefs", "hostnames", "rules"],
        parentRefs=_some(PARENT),
        hostnames=_some({"type": "string", "pattern": rf"^{HOST}\Z"}),
        rules=_some(RULE),
    ),
)


def refusals(objects: list[Object], era: str, more: list[Object] | None = None) -> list[str]:
    """Of the objects of one app; `more` is what lies in its namespace already."""
    there = [*objects, *(more or [])]
    found = [said for thing in objects for said in _schema(thing, era)]
    if found:  # what follows reads the fields
        return found
    found += _names(objects)
    found += _references(there)
    for pod, container in _containers(objects):
        found += [f"{pod}: {said}" for said in _container(container)]
    return found + list(_quota(objects))


def _schema(thing: Object, era: str) -> Iterator[str]:
    where = f"{thing['kind']} {thing['metadata']['name']}"
    try:
        if thing["kind"] == "HTTPRoute":
            jsonschema.validate(thing, HTTP_ROUTE)
        else:
            kubernetes_validate.validate(thing, KUBERNETES[era], strict=True)
    except jsonschema.ValidationError as error:
        yield f"{where} at {error.json_path}: {error.message}"


def _names(objects: list[Object]) -> Iterator[str]:
    many = Counter((thing["kind"], thing["metadata"]["name"]) for thing in objects)
    yield from (f"{kind} {name} is there twice." for (kind, name), n in many.items() if n > 1)
    for thing in objects:
        kind, metadata = thing["kind"], thing["metadata"]
        rule = SERVICE if kind == "Service" else LABEL if kind in SHORT else HOST
        name, values = metadata["name"], metadata.get("labels", {}).values()
        if not re.fullmatch(rule, name):
            yield f"{kind} {name}: its name is no {'host' if rule == HOST else 'label of 63'}."
        yield from (f"{kind} {name}: {v} is no label." for v in values if not _fits(VALUE, v))
        yield from (f"{kind} {name}: {h} is no host." for h in _hosts(thing) if not _fits(HOST, h))


def _fits(rule: str, text: str) -> bool:
    return bool(re.fullmatch(rule, text))


def _hosts(thing: Object) -> list[str]:
    if thing["kind"] == "Ingress":
        return [rule["host"] for rule in thing["spec"]["rules"]]
    return list(thing["spec"]["hostnames"]) if thing["kind"] == "HTTPRoute" else []


def _containers(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    for thing in objects:
        if thing["kind"] == "Deployment":
            for container in thing["spec"]["template"]["spec"]["containers"]:
                yield f"Deployment {thing['metadata']['name']}", container


def _container(container: Object) -> Iterator[str]:
    names = Counter(variable["name"] for variable in container["env"])
    yield from (f"the variable {name} is there twice." for name, n in names.items() if n > 1)
    yield from (f"{name} names no variable." for name in names if not _fits(VARIABLE, name))
    if not _fits(LABEL, container["name"]):
        yield f"{container['name']} names no container."
    if not _fits(IMAGE, container["image"]):
        yield f"{container['image']} names no image."
    yield from _resources(container["resources"])
    yield from _probed(container)


def _resources(resources: Object) -> Iterator[str]:
    limits, requests = resources.get("limits", {}), resources.get("requests", {})
    for name in ("memory", "cpu"):
        if name not in limits:
            yield f"it has no limit of {name}; give its container a size in thinkube.yaml."
        elif amount(requests.get(name, "0")) > amount(limits[name]):
            yield f"it asks for {requests[name]} of {name} and may have {limits[name]}."


def _probed(container: Object) -> Iterator[str]:
    ports = [port["containerPort"] for port in container.get("ports", [])]
    for name in ("livenessProbe", "readinessProbe"):
        get = container.get(name, {}).get("httpGet")
        if not get:
            yield f"it has no {name}; give its container health: /health in thinkube.yaml."
        elif get["port"] not in ports:
            yield f"its {name} asks port {get['port']}, which it does not open."
        elif not get["path"].startswith("/"):
            yield f"its {name} asks for {get['path']}, which is no path."


def _references(objects: list[Object]) -> Iterator[str]:
    """What names something that is not there."""
    held = {(thing["kind"], thing["metadata"]["name"]): thing for thing in objects}
    for where, kind, name, key in _wanted(objects):
        thing = held.get((kind, name))
        if not thing:
            yield f"{where} needs the {kind} {name}; somebody must create it first."
        elif key and key not in {**thing.get("data", {}), **thing.get("stringData", {})}:
            yield f"{where} needs {key} in the {kind} {name}."
    ports = {
        (thing["metadata"]["name"], port["port"])
        for thing in objects
        if thing["kind"] == "Service"
        for port in thing["spec"]["ports"]
    }
    for way in _ways(objects):
        if way not in ports:
            yield f"A route leads to port {way[1]} of {way[0]}, where no Service is."
    yield from _selected(objects)


def _wanted(objects: list[Object]) -> Iterator[tuple[str, str, str, str]]:
    kinds = {"secretKeyRef": "Secret", "configMapKeyRef": "ConfigMap"}
    for where, container in _containers(objects):
        for source in container.get("envFrom", []):
            yield where, "Secret", source["secretRef"]["name"], ""
        for variable in container["env"]:
            for how, ref in variable.get("valueFrom", {}).items():
                yield where, kinds[how], ref["name"], ref["key"]
    for thing in objects:
        if thing["kind"] == "Deployment":
            where, pod = thing["metadata"]["name"], thing["spec"]["template"]["spec"]
            for secret in pod["imagePullSecrets"]:
                yield where, "Secret", secret["name"], ""
            for volume in pod["volumes"]:
                if claim := volume.get("persistentVolumeClaim"):
                    yield where, "PersistentVolumeClaim", claim["claimName"], ""


def _ways(objects: list[Object]) -> Iterator[tuple[str, int]]:
    for thing in objects:
        if thing["kind"] == "HTTPRoute":
            for rule in thing["spec"]["rules"]:
                yield from ((to["name"], to["port"]) for to in rule["backendRefs"])
        if thing["kind"] == "Ingress":
            for rule in thing["spec"]["rules"]:
                services = [path["backend"]["service"] for path in rule["http"]["paths"]]
                yield from ((to["name"], to["port"]["number"]) for to in services)


def _selected(objects: list[Object]) -> Iterator[str]:
    """A Service finds the pods of exactly one Deployment, and a port of theirs."""
    pods = [thing["spec"] for thing in objects if thing["kind"] == "Deployment"]
    for pod in pods:
        if pod["selector"]["matchLabels"] != pod["template"]["metadata"]["labels"]:
            yield "A Deployment does not select its own pods."
    for thing in objects:
        if thing["kind"] == "Service":
            wanted = thing["spec"]["selector"].items()
            found = [p for p in pods if wanted <= p["template"]["metadata"]["labels"].items()]
            if len(found) != 1:
                yield f"Service {thing['metadata']['name']} finds {len(found)} Deployments."


def _quota(objects: list[Object]) -> Iterator[str]:
    """Two copies of each pod, as during a rollout, and the hook's pod have to fit at once."""
    kinds = {thing["kind"]: thing["spec"] for thing in objects if "spec" in thing}
    if "ResourceQuota" not in kinds:
        return
    limit = kinds["LimitRange"]["limits"][0]
    default = {"limits": limit["default"], "requests": limit["defaultRequest"]}
    pods = [
        (thing["spec"]["replicas"], container["resources"])
        for thing in objects
        if thing["kind"] == "Deployment"
        for container in thing["spec"]["template"]["spec"]["containers"]
    ]
    for name, most in kinds["ResourceQuota"]["hard"].items():
        part, what = name.split(".")
        used = amount(default[part][what])  # the hook's
        for replicas, has in pods:
            one = has.get(part, {}).get(what, default[part][what])
            used += 2 * replicas * amount(one)
        if used > amount(most):
            unit = 2**30 if what == "memory" else 1
            has = f"{used / unit:g} of {amount(most) / unit:g}{' Gi' if unit > 1 else ''}"
            yield f"The quota's {name}: a rollout beside the hook takes {has}."


def amount(text: str) -> float:
    """A quantity of Kubernetes in bytes or cores."""
    number, unit = re.fullmatch(r"([\d.]+)(m|Mi|Gi|)", text).groups()  # type: ignore[union-attr]
    return float(number) * UNITS[unit]

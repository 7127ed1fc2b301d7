"""What the platform makes of thinkube.yaml: Kubernetes objects, and the folder k8s/.

Fields, sizes, probes, variables and file names are the platform's. Where it is not known what it
calls something, this has names of its own: labels, the port's and the volumes' names, the node's
label of GPU memory, the certificate's Secret of 2025, what app-metadata and the hook hold. Of the
services of a descriptor it knows none, and no knative, dependencies or migrations: it refuses them.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.kubernetes.call import Deployed

Object = dict[str, Any]
SIZES = {  # memory and CPU: requests, then limits
    "small": ("128Mi", "100m", "256Mi", "500m"),
    "medium": ("256Mi", "250m", "512Mi", "1000m"),
    "large": ("512Mi", "500m", "1Gi", "2000m"),
}
XLARGE = {
    "2025": ("16Gi", "2000m", "24Gi", "4000m"),
    "2026": ("4Gi", "1000m", "16Gi", "4000m"),
}
FILES = {
    "Namespace": "namespace",
    "Secret": "mlflow-secrets",
    "ConfigMap": "app-metadata",
    "LimitRange": "resource-policies",
    "ResourceQuota": "resource-policies",
    "PersistentVolumeClaim": "storage-pvc",
    "Deployment": "deployments",
    "Service": "services",
    "Ingress": "ingress",
    "HTTPRoute": "ingress",
    "Job": "argocd-postsync-hook",
}
"""The file of k8s/ by the kind of what is in it."""


class Refused(ValueError):
    """One sentence: what the platform cannot make an object of, and why."""


def objects(spec: Object, deployed: Deployed, shared_memory_gi: int = 0) -> list[Object]:
    """All that k8s/ holds for an app; Refused for what breaks the platform's own tools.

    shared_memory_gi: of a node whose GPU uses the node's memory; 0 is a card with its own.
    """
    _read_twice(spec)
    _known(spec)
    made = [_namespace(deployed), _secret(deployed), _metadata(deployed)]
    if deployed.era == "2026":
        made += _policies(spec, deployed, shared_memory_gi)
    for container in spec["containers"]:
        made += [*_claims(container, deployed), _deployment(spec, container, deployed)]
        made += [_service(container, deployed)] if "port" in container else []
    edge = _http_route if deployed.era == "2026" else _ingress
    return [*made, edge(spec, deployed), _hook(deployed)]


def beside(deployed: Deployed) -> list[Object]:
    """What the platform puts into the namespace itself, outside of k8s/."""
    made = [_secret_of(deployed, "app-pull-secret", {".dockerconfigjson": "{}"})]
    if deployed.era == "2025" and deployed.secrets:
        made.append(_secret_of(deployed, f"{deployed.app}-secrets", deployed.secrets))
    return made


def write(made: list[Object], folder: Path) -> None:
    """k8s/ with its kustomization.yaml."""
    folder.mkdir()
    names = list(dict.fromkeys(f"{FILES[thing['kind']]}.yaml" for thing in made))
    for name in names:
        held = [thing for thing in made if f"{FILES[thing['kind']]}.yaml" == name]
        (folder / name).write_text(yaml.safe_dump_all(held, sort_keys=False))
    kind = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kind | {"resources": names}))


def image(container: Object, deployed: Deployed) -> str:
    """Without its tag."""
    return f"registry.{deployed.domain}/thinkube/{deployed.app}-{container['name']}"


def dockerfile(container: Object, workspace: Path) -> Path:
    """The file that Kaniko is told to build; the folder around it is the context."""
    return workspace / str(container["build"]).removeprefix("./") / "Dockerfile"


def _read_twice(spec: Object) -> None:
    """The 2025 platform hands the descriptor on as JSON inside a string of Python's, the 2026
    platform between double quotes of YAML."""
    told = json.dumps(spec)
    try:
        same = json.loads(ast.literal_eval(f"'''{told}'''")) == spec
    except (ValueError, SyntaxError):
        same = False
    if not same:
        raise Refused("thinkube.yaml holds a quote or a backslash, which breaks the 2025 ingress.")
    for container in spec["containers"]:
        _quoted(container.get("test", {}).get("command", ""))


def _known(spec: Object) -> None:
    """Nothing that this has no objects for, or would leave out without a word."""
    if spec.get("services"):
        raise Refused(f"This rehearsal knows no service {spec['services']}.")
    kind = spec.get("deployment", {}).get("type", "app")
    if kind != "app":
        raise Refused(f"This rehearsal makes no deployment of type {kind}; leave the type out.")
    if "dependencies" in spec:
        raise Refused("This rehearsal looks up no dependencies; the 2026 platform stops at them.")
    for container in spec["containers"]:
        if "migrations" in container:
            raise Refused(f"This rehearsal runs no migrations of container {container['name']}.")
        if not isinstance(container.get("gpu", {}), dict):
            raise Refused(f"The gpu of container {container['name']} is no mapping; leave it out.")


def _quoted(value: str) -> str:
    """As YAML reads it between double quotes, where the platform puts it as it is."""
    try:
        found = yaml.safe_load(f'"{value}"')
    except yaml.YAMLError:
        found = None
    if found != value:
        raise Refused(f"{value!r} breaks a manifest, where it stands between double quotes.")
    return value


def _object(kind: str, name: str, deployed: Deployed, version: str = "v1", **more: Any) -> Object:
    labels = {"app.kubernetes.io/part-of": deployed.app}
    metadata = {"name": name, "namespace": deployed.app, "labels": labels}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **more}


def _namespace(deployed: Deployed) -> Object:
    made = _object("Namespace", deployed.app, deployed)
    del made["metadata"]["namespace"]
    return made


def _secret(deployed: Deployed) -> Object:
    keys = ["admin-password", "client-secret"]
    newer = ["s3-access-key", "s3-secret-key"]
    keys += newer if deployed.era == "2026" else ["seaweedfs-password"]
    return _secret_of(deployed, "mlflow-secrets", {key: f"the-{key}" for key in keys})


def _secret_of(deployed: Deployed, name: str, data: dict[str, str]) -> Object:
    return _object("Secret", name, deployed, type="Opaque", stringData=data)


def _metadata(deployed: Deployed) -> Object:
    told = {"name": deployed.app, "description": deployed.passed["project_description"]}
    return _object("ConfigMap", "app-metadata", deployed, data=told)


def _policies(spec: Object, deployed: Deployed, shared_memory_gi: int) -> list[Object]:
    gpu = any("gpu" in container for container in spec["containers"])
    memory = max(16, min(shared_memory_gi, 96)) if gpu else 16
    hard = {"limits.memory": f"{memory}Gi", "requests.memory": f"{memory // 2}Gi"}
    hard |= {"limits.cpu": "8", "requests.cpu": "4"}
    default = {"memory": "256Mi", "cpu": "250m"}
    request = {"memory": "64Mi", "cpu": "25m"}
    limit = {"type": "Container", "default": default, "defaultRequest": request}
    return [
        _object("LimitRange", "default-limits", deployed, spec={"limits": [limit]}),
        _object("ResourceQuota", "quota", deployed, spec={"hard": hard}),
    ]


def _claims(container: Object, deployed: Deployed) -> list[Object]:
    """A volume of the app's own, or else the models for a GPU."""
    name = f"{deployed.app}-{container['name']}"
    if "volume" in container:
        return [_claim(f"{name}-storage", deployed, "1Gi", "ReadWriteOnce", "k8s-hostpath")]
    if "gpu" in container:
        kind = "juicefs-mlflow" if deployed.era == "2025" else ""
        return [_claim(f"{name}-models", deployed, "100Gi", "ReadWriteMany", kind)]
    return []


def _claim(name: str, deployed: Deployed, size: str, access: str, kind: str) -> Object:
    asked = {"requests": {"storage": size}}
    spec = {"accessModes": [access], "storageClassName": kind, "resources": asked}
    return _object("PersistentVolumeClaim", name, deployed, spec=spec)


def _deployment(spec: Object, container: Object, deployed: Deployed) -> Object:
    name = f"{deployed.app}-{container['name']}"
    labels = {"app": deployed.app, "component": container["name"]}
    replicas = spec.get("deployment", {}).get("replicas", 1) if deployed.era == "2026" else 1
    pod = {
        "imagePullSecrets": [{"name": "app-pull-secret"}],
        "containers": [_container(spec, container, deployed)],
        "volumes": list(_volumes(container, deployed)),
    }
    if deployed.era == "2026":
        pod["priorityClassName"] = "thinkube-workload"
    if "gpu" in container:
        pod["affinity"] = _affinity(container["gpu"].get("memory", ""))
    template = {"metadata": {"labels": labels}, "spec": pod}
    whole = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    return _object("Deployment", name, deployed, "apps/v1", spec=whole)


def _container(spec: Object, container: Object, deployed: Deployed) -> Object:
    made: Object = {
        "name": container["name"],
        "image": f"{image(container, deployed)}:latest",
        "imagePullPolicy": "Always",
        "env": list(_environment(spec, container, deployed)),
        "resources": _resources(container, deployed.era),
        "volumeMounts": list(_mounts(container, deployed)),
    } | _probes(container)
    if "port" in container:
        made["ports"] = [{"containerPort": container["port"], "name": "http"}]
    if deployed.era == "2025" and deployed.secrets:
        made["envFrom"] = [{"secretRef": {"name": f"{deployed.app}-secrets"}}]
    if deployed.era == "2026":
        how = {"cpu": "NotRequired", "memory": "RestartContainer"}
        made["resizePolicy"] = [{"resourceName": k, "restartPolicy": v} for k, v in how.items()]
    return made


def _resources(container: Object, era: str) -> Object:
    if "size" not in container:
        return _gpus(container)
    sizes = SIZES | {"xlarge": XLARGE[era]}
    memory, cpu, most_memory, most_cpu = sizes.get(container["size"], SIZES["small"])
    limits = {"memory": most_memory, "cpu": most_cpu} | _gpus(container).get("limits", {})
    return {"requests": {"memory": memory, "cpu": cpu}, "limits": limits}


def _gpus(container: Object) -> Object:
    gpu = container.get("gpu", {})
    if not (gpu.get("count") and gpu.get("memory")):
        return {}
    return {"limits": {"nvidia.com/gpu": str(gpu["count"])}}


def _probes(container: Object) -> Object:
    if "health" not in container:
        return {}
    get = {"httpGet": {"path": container["health"], "port": container.get("port", 8080)}}
    if "gpu" not in container:
        live, ready = _times(30, 10), _times(5, 5)
        return {"livenessProbe": get | live, "readinessProbe": get | ready}
    start = _times(30, 10) | {"timeoutSeconds": 10, "failureThreshold": 60}
    live, ready = (_times(*times) | {"timeoutSeconds": 10} for times in ((30, 30), (10, 10)))
    probes = {"startupProbe": start, "livenessProbe": live, "readinessProbe": ready}
    return {name: get | probe for name, probe in probes.items()}


def _times(delay_s: int, period_s: int) -> Object:
    return {"initialDelaySeconds": delay_s, "periodSeconds": period_s}


def _environment(spec: Object, container: Object, deployed: Deployed) -> Iterator[Object]:
    """The platform's, the parameters, the descriptor's, the container's own: the last one wins."""
    yield from _both(deployed)
    if deployed.era == "2026":
        yield from _newer(deployed)
        if "gpu" in container:
            yield _is("FLASHINFER_WORKSPACE_BASE", "/root/.cache/vllm")
        for name, value in deployed.parameters.items():
            yield _is(name.upper(), value)
        for variable in spec.get("env", []):
            if "default" in variable:
                yield _is(variable["name"], str(variable["default"]))
    for variable in container.get("environment", []):
        yield variable if "valueFrom" in variable else _is(variable["name"], variable["value"])


def _both(deployed: Deployed) -> Iterator[Object]:
    login, app = f"https://auth.{deployed.domain}", f"https://{deployed.app}.{deployed.domain}"
    yield _is("KEYCLOAK_URL", login)
    yield _is("KEYCLOAK_BASE_URL", login)
    yield _is("KEYCLOAK_REALM", "thinkube")
    yield _is("KEYCLOAK_CLIENT_ID", deployed.app)
    yield _is("KEYCLOAK_CLIENT_SECRET", "")
    yield _is("FRONTEND_URL", app)
    yield _is("APP_URL", app)
    yield _is("API_BASE_URL", f"{app}/api")
    yield _from("MLFLOW_CLIENT_SECRET", "client-secret")
    yield _from("ADMIN_PASSWORD", "admin-password")
    if deployed.era == "2025":
        yield _from("SEAWEEDFS_PASSWORD", "seaweedfs-password")


def _newer(deployed: Deployed) -> Iterator[Object]:
    realm = f"https://auth.{deployed.domain}/realms/thinkube"
    yield _is("MLFLOW_KEYCLOAK_TOKEN_URL", f"{realm}/protocol/openid-connect/token")
    yield _is("MLFLOW_KEYCLOAK_CLIENT_ID", "mlflow")
    yield _is("MLFLOW_AUTH_USERNAME", "tkadmin")
    yield _from("MLFLOW_AUTH_PASSWORD", "admin-password")
    yield _is("SEAWEEDFS_ENDPOINT", "http://seaweedfs-filer.seaweedfs.svc.cluster.local:8333")
    yield _from("SEAWEEDFS_ACCESS_KEY", "s3-access-key")
    yield _from("SEAWEEDFS_SECRET_KEY", "s3-secret-key")
    yield _is("APP_NAME", deployed.app)
    yield _is("APP_TITLE", deployed.app.replace("-", " ").title())
    yield _is("DOMAIN_NAME", deployed.domain)
    yield _is("CONTAINER_REGISTRY", deployed.registry)


def _is(name: str, value: str) -> Object:
    return {"name": name, "value": _quoted(value)}


def _from(name: str, key: str) -> Object:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": "mlflow-secrets", "key": key}}}


def _volumes(container: Object, deployed: Deployed) -> Iterator[Object]:
    for claim in _claims(container, deployed):
        source = {"claimName": claim["metadata"]["name"]}
        yield {"name": "storage", "persistentVolumeClaim": source}
    if "gpu" in container and deployed.era == "2026":
        path = {"path": "/root/.cache/vllm", "type": "DirectoryOrCreate"}
        yield {"name": "cache", "hostPath": path}


def _mounts(container: Object, deployed: Deployed) -> Iterator[Object]:
    if "volume" in container or "gpu" in container:
        yield {"name": "storage", "mountPath": container.get("volume", "/mlflow-models")}
    if "gpu" in container and deployed.era == "2026":
        yield {"name": "cache", "mountPath": "/root/.cache/vllm"}


def _affinity(memory: str) -> Object:
    wanted = str(int(memory.removesuffix("Gi") or 0) * 1024 - 1)
    label = {"key": "nvidia.com/gpu.memory", "operator": "Gt", "values": [wanted]}
    preferred = {"weight": 100, "preference": {"matchExpressions": [label]}}
    return {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [preferred]}}


def _service(container: Object, deployed: Deployed) -> Object:
    name, port = f"{deployed.app}-{container['name']}", container["port"]
    selector = {"app": deployed.app, "component": container["name"]}
    ports = [{"name": "http", "port": port, "targetPort": port}]
    return _object("Service", name, deployed, spec={"selector": selector, "ports": ports})


def _ways(spec: Object, deployed: Deployed) -> Iterator[tuple[str, str, int]]:
    """(path, Service, port) of each route whose container has a port; the others are dropped."""
    ports = {c["name"]: c["port"] for c in spec["containers"] if "port" in c}
    first = [{"path": "/", "to": name} for name in list(ports)[:1]]
    for route in spec.get("routes") or first:
        if route["to"] in ports:
            yield route["path"], f"{deployed.app}-{route['to']}", ports[route["to"]]


def _http_route(spec: Object, deployed: Deployed) -> Object:
    rules = [
        {
            "matches": [{"path": {"type": "PathPrefix", "value": path}}],
            "backendRefs": [{"name": service, "port": port}],
        }
        for path, service, port in _ways(spec, deployed)
    ]
    gateway = {"name": "thinkube-gateway", "namespace": "gateway-system", "sectionName": "https"}
    hosts = [f"{deployed.app}.{deployed.domain}"]
    whole = {"parentRefs": [gateway], "hostnames": hosts, "rules": rules or None}
    return _object("HTTPRoute", deployed.app, deployed, "gateway.networking.k8s.io/v1", spec=whole)


def _ingress(spec: Object, deployed: Deployed) -> Object:
    host = f"{deployed.app}.{deployed.domain}"
    paths = [
        {
            "path": path,
            "pathType": "Prefix",
            "backend": {"service": {"name": service, "port": {"number": port}}},
        }
        for path, service, port in _ways(spec, deployed)
    ]
    rule = {"host": host, "http": {"paths": paths or None}}
    tls = {"hosts": [host], "secretName": f"{deployed.app}-tls"}
    whole = {"ingressClassName": "nginx", "tls": [tls], "rules": [rule]}
    made = _object("Ingress", deployed.app, deployed, "networking.k8s.io/v1", spec=whole)
    if any("large-uploads" in c.get("capabilities", []) for c in spec["containers"]):
        limit = {"nginx.ingress.kubernetes.io/proxy-body-size": "1024m"}
        made["metadata"]["annotations"] = limit
    return made


def _hook(deployed: Deployed) -> Object:
    image = f"{deployed.registry}/library/ci-utils:latest"
    pod = {"restartPolicy": "Never", "containers": [{"name": "hook", "image": image}]}
    made = _object("Job", "argocd-postsync-hook", deployed, "batch/v1", spec={"template": {}})
    made["metadata"]["annotations"] = {"argocd.argoproj.io/hook": "PostSync"}
    made["spec"]["template"]["spec"] = pod
    return made

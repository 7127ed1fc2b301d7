"""From an answer to objects that a cluster takes: render, push to a git server, clone, convert.

The other half of the road, from the clone to an image that answers, is in test_image.py. Nothing
here has met a cluster.
"""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from parts import apps
from parts.programs import free_port
from tests import live
from tests.doubles.git_server import GitServer
from tests.doubles.serve import running
from tests.kubernetes import pod
from tests.kubernetes.call import ERAS, deployment
from tests.kubernetes.objects import Refused, beside, dockerfile, image, objects, write
from tests.kubernetes.pod import Kubelet, join, limited, throttled_s
from tests.kubernetes.road import Pushed, walk
from tests.kubernetes.rules import HTTP_ROUTE, refusals
from tests.rendering import TEMPLATES, call, files

RAG, VLLM = "tkt-rag-agent", "tkt-vllm-gradio"
NO_ROOM = [  # a second xlarge, where a card has memory of its own
    "The quota's limits.memory: a rollout beside the hook takes 32.25 of 16 Gi.",
    "The quota's requests.memory: a rollout beside the hook takes 8.0625 of 8 Gi.",
    "The quota's limits.cpu: a rollout beside the hook takes 8.25 of 8.",
]
Spec = dict[str, Any]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[GitServer, str]]:
    server = GitServer(tmp_path_factory.mktemp("git"))
    with running(server.app) as url:
        yield server, url


@pytest.fixture(scope="module", params=[(t, era) for t in TEMPLATES for era in ERAS], ids=" ".join)
def pushed(
    request: pytest.FixtureRequest,
    server: tuple[GitServer, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Pushed:
    """An app named after its template and the platform's state, rendered by that one's call."""
    template, era = request.param
    deployed = deployment(era, template, f"{template}-{era}")
    return walk(template, deployed, *server, tmp_path_factory.mktemp("road"))


@pytest.fixture
def spec() -> Spec:
    """The descriptor of a RAG agent as a test writes it."""
    container = {"name": "app", "build": "./demo-app", "port": 7860, "size": "large"}
    container |= {"health": "/health", "test": {"enabled": False, "command": ""}}
    return {"containers": [container]}


def said(spec: Spec, era: str = "2026", **answers: str) -> str:
    """What is refused in the objects of a descriptor."""
    deployed = deployment(era, RAG, **answers)
    return "\n".join(refusals(objects(spec, deployed), era, beside(deployed)))


def test_the_server_has_what_was_pushed_at_main(pushed: Pushed) -> None:
    heads = call(["git", "ls-remote", pushed.address, "refs/heads/main"])
    assert heads == f"{pushed.commit}\trefs/heads/main\n"
    assert call(["git", "rev-parse", "HEAD"], pushed.clone).strip() == pushed.commit


def test_what_git_ignores_does_not_arrive_and_all_else_does(pushed: Pushed) -> None:
    copy = pushed.clone.parent / "working-copy"
    assert files(copy).keys() - files(pushed.clone).keys() == {f"{pushed.deployed.app}/data/store"}
    assert files(copy).items() >= files(pushed.clone).items()


def test_a_wrong_password_is_refused(server: tuple[GitServer, str], tmp_path: Path) -> None:
    git, url = server
    git.create("team/closed")
    for password in ("wrong", ""):
        address = git.address(url, "team/closed", password)
        with pytest.raises(RuntimeError, match=r"Authentication failed|could not read"):
            call(["git", "clone", "--quiet", address, str(tmp_path / "clone")])
    call(["git", "clone", "--quiet", git.address(url, "team/closed"), str(tmp_path / "clone")])


def test_a_push_to_a_repository_that_nobody_made_is_refused(
    server: tuple[GitServer, str], pushed: Pushed
) -> None:
    git, url = server
    with pytest.raises(RuntimeError, match="not found"):
        call(["git", "push", git.address(url, "team/unknown"), "main"], pushed.clone)


def test_a_push_over_what_somebody_else_pushed_needs_force(
    server: tuple[GitServer, str], pushed: Pushed, tmp_path: Path
) -> None:
    """As after the Harbor adapter's commit: pull first."""
    git, url = server
    name = f"team/{pushed.deployed.app}"
    git.create(name)
    copy = pushed.clone.parent / "working-copy"
    call(["git", "push", "--quiet", git.address(url, name), "main"], copy)
    call(["git", "clone", "--quiet", git.address(url, name), str(tmp_path / "other")])
    who = ["-c", "user.name=Adapter", "-c", "user.email=adapter@example.org"]
    call(["git", *who, "commit", "--quiet", "--allow-empty", "-m", "Tag"], tmp_path / "other")
    call(["git", "push", "--quiet", "origin", "main"], tmp_path / "other")
    call(["git", *who, "commit", "--quiet", "--amend", "-m", "Mine"], copy)
    with pytest.raises(RuntimeError, match="fetch first"):
        call(["git", "push", git.address(url, name), "main"], copy)


def test_a_cluster_takes_the_objects(pushed: Pushed) -> None:
    """A card with memory of its own has no room for a second copy of a model server: the pages say
    to scale it to zero before its new version comes."""
    deployed = pushed.deployed
    made = objects(pushed.spec, deployed)
    expected = NO_ROOM if (pushed.template, deployed.era) == (VLLM, "2026") else []
    assert refusals(made, deployed.era, beside(deployed)) == expected


def test_where_a_gpu_shares_the_nodes_memory_the_hook_alone_has_no_cpu() -> None:
    deployed = deployment("2026", VLLM)
    container = {"name": "app", "build": "./demo-app", "port": 7860, "size": "xlarge"}
    container |= {"health": "/health", "gpu": {"count": 1, "memory": "24Gi"}}
    made = objects({"containers": [container]}, deployed, shared_memory_gi=119)
    assert refusals(made, "2026", beside(deployed)) == NO_ROOM[2:]


def test_kustomize_builds_the_folder_as_it_was_written(pushed: Pushed, tmp_path: Path) -> None:
    made = objects(pushed.spec, pushed.deployed)
    write(made, tmp_path / "k8s")
    built = call(["kubectl", "kustomize", str(tmp_path / "k8s")])
    assert _by_name(yaml.safe_load_all(built)) == _by_name(made)


def test_the_tag_that_harbors_adapter_writes_reaches_the_pod(
    pushed: Pushed, tmp_path: Path
) -> None:
    (container,) = pushed.spec["containers"]
    name = image(container, pushed.deployed)
    write(objects(pushed.spec, pushed.deployed), tmp_path / "k8s")
    with (tmp_path / "k8s" / "kustomization.yaml").open("a") as file:
        yaml.safe_dump({"images": [{"name": name, "newTag": "uid-of-a-workflow"}]}, file)
    built = call(["kubectl", "kustomize", str(tmp_path / "k8s")])
    made = _by_name(yaml.safe_load_all(built))["Deployment", f"{pushed.deployed.app}-app"]["spec"]
    assert made["template"]["spec"]["containers"][0]["image"] == f"{name}:uid-of-a-workflow"


def _by_name(made: Any) -> dict[tuple[str, str], Any]:
    return {(thing["kind"], thing["metadata"]["name"]): thing for thing in made}


def test_kaniko_finds_its_dockerfile_in_the_clone(pushed: Pushed) -> None:
    (container,) = pushed.spec["containers"]
    file = dockerfile(container, pushed.clone)
    assert file.is_file()
    assert not file.is_symlink()


@pytest.mark.parametrize("pushed", [(t, "2026") for t in TEMPLATES], indirect=True, ids=" ".join)
def test_the_clone_serves_what_its_probes_ask_for(pushed: Pushed, tmp_path: Path) -> None:
    """In the environment of its requirements, with the variables of its pod alone."""
    made = objects(pushed.spec, pushed.deployed)
    container = pod.container_of(made)
    folder = pushed.clone / pushed.deployed.app
    env = {variable["name"]: variable.get("value", "secret") for variable in container["env"]}
    env |= {"PATH": f"{live.bin_folder(pushed.template)}:/usr/bin:/bin", "DATA_DIR": str(tmp_path)}
    env |= {"PYTHONPATH": str(live.GUARD), "REFUSED_LOG": str(tmp_path / "refused"), "NAMES": "{}"}
    port, (told,) = free_port(), container["ports"]
    opened = apps.command(folder, told["containerPort"])
    assert str(told["containerPort"]) in opened
    with live.running(apps.command(folder, port), port, tmp_path, env, folder) as app:
        live.wait_until(lambda: live.status(app, "/health"), 50)
        for name in ("livenessProbe", "readinessProbe"):
            answer = app.http.get(container[name]["httpGet"]["path"])
            assert answer.json()["component"] == container["name"]


# What the road refuses


def test_the_descriptor_of_these_tests_is_taken(spec: Spec) -> None:
    assert [said(spec, era) for era in ERAS] == ["", ""]


BREAKS: dict[str, tuple[Callable[[Spec], object], str]] = {
    "no size": (lambda c: c.pop("size"), "no limit of memory; give its container a size"),
    "xlarge": (lambda c: c.update(size="xlarge"), "limits.memory: a rollout beside the hook"),
    "no health": (lambda c: c.pop("health"), "it has no livenessProbe; give its container health"),
    "health of no path": (lambda c: c.update(health="health"), "health, which is no path"),
    "no port": (lambda c: c.pop("port"), "spec.rules: None is not of type"),
    "port too high": (lambda c: c.update(port=70000), "70000"),
    "port as text": (lambda c: c.update(port="7860"), "'7860' is not"),
    "name with a capital": (lambda c: c.update(name="App"), "names no container"),
    "twice a platform's variable": (
        lambda c: c.update(environment=[{"name": "APP_NAME", "value": "mine"}]),
        "the variable APP_NAME is there twice",
    ),
    "twice a parameter": (
        lambda c: c.update(environment=[{"name": "CHAT_MODEL", "value": "mine"}]),
        "the variable CHAT_MODEL is there twice",
    ),
    "a variable of no name": (
        lambda c: c.update(environment=[{"name": "MY-NAME", "value": "mine"}]),
        "MY-NAME names no variable",
    ),
    "a secret that is not there": (
        lambda c: c.update(environment=[secret("HF_TOKEN", "my-keys", "hf")]),
        "needs the Secret my-keys; somebody must create it first",
    ),
    "a key that is not there": (
        lambda c: c.update(environment=[secret("HF_TOKEN", "mlflow-secrets", "hf")]),
        "needs hf in the Secret mlflow-secrets",
    ),
    "a source that Kubernetes has not": (
        lambda c: c.update(environment=[{"name": "HF_TOKEN", "valueFrom": {"vault": {}}}]),
        "'vault' was unexpected",
    ),
}  # fmt: skip


def secret(variable: str, name: str, key: str) -> dict[str, Any]:
    return {"name": variable, "valueFrom": {"secretKeyRef": {"name": name, "key": key}}}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_descriptor_is_refused(name: str, spec: Spec) -> None:
    change, expected = BREAKS[name]
    change(spec["containers"][0])
    found = said(spec)
    assert found
    assert expected in found


@pytest.mark.parametrize("era", ERAS)
def test_a_name_of_64_characters_is_refused(era: str, spec: Spec) -> None:
    assert said(spec, era, app="a" * 59) == ""
    assert f"Service {'a' * 60}-app: its name is no label of 63" in said(spec, era, app="a" * 60)


def test_a_second_container_without_a_port_is_probed_where_it_does_not_listen(spec: Spec) -> None:
    spec["containers"].append({"name": "two", "build": "./two", "size": "small", "health": "/"})
    assert "demo-app-two: its livenessProbe asks port 8080, which it does not open" in said(spec)


@pytest.mark.parametrize("era", ERAS)
def test_a_route_to_nowhere_is_refused(era: str, spec: Spec) -> None:
    spec["routes"] = [{"path": "/", "to": "web"}]
    assert "None is not of type 'array'" in said(spec, era)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("text", ['say "hi"', "back\\slash", "'''"])
def test_a_quote_in_a_descriptor_is_refused(era: str, text: str, spec: Spec) -> None:
    spec["containers"][0]["test"]["command"] = text
    with pytest.raises(Refused, match="breaks"):
        said(spec, era)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"deployment": {"type": "knative"}}, "makes no deployment of type knative"),
        ({"deployment": {"type": "component"}}, "makes no deployment of type component"),
        ({"dependencies": [{"name": "search", "type": "search"}]}, "looks up no dependencies"),
        ({"services": ["database"]}, "knows no service"),
    ],
)
def test_what_the_rehearsal_does_not_know_is_refused(
    era: str, more: Spec, expected: str, spec: Spec
) -> None:
    with pytest.raises(Refused, match=expected):
        said(spec | more, era)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"migrations": {"tool": "alembic"}}, "runs no migrations of container app"),
        ({"gpu": None}, "The gpu of container app is no mapping"),
        ({"gpu": 1}, "The gpu of container app is no mapping"),
    ],
)
def test_so_is_what_it_does_not_know_in_a_container(
    era: str, more: Spec, expected: str, spec: Spec
) -> None:
    spec["containers"][0] |= more
    with pytest.raises(Refused, match=expected):
        said(spec, era)


@pytest.mark.parametrize("era", ERAS)
def test_a_field_that_no_schema_has_is_refused_in_each_object(era: str, spec: Spec) -> None:
    deployed = deployment(era, RAG)
    for number, thing in enumerate(objects(spec, deployed)):
        made = objects(spec, deployed)
        where = made[number].get("spec", made[number])
        where["unheardOf"] = True
        (found, *_) = refusals(made, era, beside(deployed))
        assert "unheardOf" in found, thing["kind"]


def test_a_route_takes_no_field_that_the_gateway_has_not(spec: Spec) -> None:
    assert HTTP_ROUTE["additionalProperties"] is False
    deployed = deployment("2026", RAG)
    made = objects(spec, deployed)
    (route,) = (thing for thing in made if thing["kind"] == "HTTPRoute")
    for change in ({"matches": [{"path": {"type": "Prefix", "value": "/"}}]}, {"backendRefs": []}):
        other = copy.deepcopy(route)
        other["spec"]["rules"][0] |= change
        assert refusals([other], "2026")


def test_a_secret_of_the_manifest_reaches_the_pods_of_2025_alone(spec: Spec) -> None:
    for era in ERAS:
        plain = deployment(era, RAG)
        deployed = type(plain)(
            era, plain.app, plain.domain, plain.passed, {"LITELLM_MASTER_KEY": "k"}
        )
        made = objects(spec, deployed)
        assert refusals(made, era, beside(deployed)) == []
        assert ("demo-app-secrets" in str(made)) == (era == "2025")


def test_a_volume_gets_a_claim(spec: Spec) -> None:
    spec["containers"][0]["volume"] = "/data"
    made = _by_name(objects(spec, deployment("2026", RAG)))
    claim = made["PersistentVolumeClaim", "demo-app-app-storage"]["spec"]
    assert claim["resources"]["requests"]["storage"] == "1Gi"
    assert said(spec) == ""


# A pod on this machine


def test_a_pod_that_does_not_answer_in_time_is_killed() -> None:
    probe = {"httpGet": {"path": "/health"}, "periodSeconds": 0.01}
    nobody = f"http://127.0.0.1:{free_port()}"
    with Kubelet({"livenessProbe": probe, "readinessProbe": probe}, nobody).watching() as kubelet:
        live.wait_until(lambda: kubelet.killed, 20)
    assert kubelet.killed.startswith("Its livenessProbe failed too often")
    assert kubelet.asked["livenessProbe"] >= 3
    assert kubelet.ready_s is None


def test_nothing_else_is_asked_before_a_startup_probe_has_passed() -> None:
    probe = {"httpGet": {"path": "/health"}, "periodSeconds": 0.01}
    probes = {"startupProbe": probe | {"failureThreshold": 6}, "livenessProbe": probe}
    with Kubelet(probes, f"http://127.0.0.1:{free_port()}").watching() as kubelet:
        live.wait_until(lambda: kubelet.killed, 20)
    assert kubelet.killed.startswith("Its startupProbe failed")
    assert kubelet.asked.keys() == {"startupProbe"}


def test_a_pod_that_takes_more_than_its_limit_is_killed() -> None:
    """Where this machine lets a test set limits; elsewhere it says why they are not set."""
    container = {"resources": {"limits": {"cpu": "500m", "memory": "64Mi"}}}
    greedy = "print(len(b'x' * 500_000_000))"
    with limited(container) as (groups, told):
        enter = f'{join(groups)}exec "$@"'
        done = subprocess.run(["sh", "-ec", enter, "sh", sys.executable, "-c", greedy])
    assert done.returncode == (-9 if told.startswith("limits set") else 0), told


def test_a_pod_that_wants_more_than_its_share_waits_for_the_cpu() -> None:
    """A share that is less than a process gets on a busy machine, which would hold it by itself."""
    container = {"resources": {"limits": {"cpu": "50m", "memory": "64Mi"}}}
    busy = "import time\nwhile time.process_time() < 0.1: pass"
    with limited(container) as (groups, told):
        enter = f'{join(groups)}exec "$@"'
        subprocess.run(["sh", "-ec", enter, "sh", sys.executable, "-c", busy], check=True)
        waited = throttled_s(groups)
    assert (waited > 0) == told.startswith("limits set"), told


def test_of_two_groups_of_which_one_cannot_be_made_none_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Version 1 has one for CPU and one for memory."""
    if not (pod.CGROUPS / "cpu").exists():
        pytest.skip("this machine's control groups are of version 2, or not there")
    (tmp_path / "cpu").symlink_to(pod.CGROUPS / "cpu")
    made = list[Path]()
    real = pod._group
    monkeypatch.setattr(pod, "CGROUPS", tmp_path)
    monkeypatch.setattr(pod, "_group", lambda *words: made.append(real(*words)) or made[-1])
    with limited({"resources": {"limits": {"cpu": "500m", "memory": "64Mi"}}}) as (groups, told):
        assert groups == []
        assert told.startswith("limits not set")
        assert not any(folder.exists() for folder in made)
    assert len(made) <= 1  # none where CPU cannot be limited either


def test_a_pod_does_not_start_without_the_limits_that_are_said_to_be_set(tmp_path: Path) -> None:
    with pytest.raises(PermissionError, match="would have no limits"):
        join([tmp_path / "gone" / "cgroup.procs"])

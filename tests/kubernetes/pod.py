"""A container of a Deployment on this machine: its variables, its limits, and the kubelet's probes.

There is no container engine: `unshare` gives the image's files as the root, and the image's user.
The network is this machine's, so a pod listens at a free port of 127.0.0.1 instead of its own.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.kubernetes.objects import Object
from tests.kubernetes.rules import amount

CGROUPS = Path("/sys/fs/cgroup")
PERIOD_US = 100_000


def container_of(made: list[Object]) -> Object:
    """The one container of the one Deployment."""
    (pod,) = (thing["spec"]["template"]["spec"] for thing in made if thing["kind"] == "Deployment")
    (container,) = pod["containers"]
    return dict(container)


def environment(container: Object, made: list[Object]) -> dict[str, str]:
    """Its variables with the values of the Secrets among `made`, and those of every pod."""
    held = {
        (thing["metadata"]["name"], key): value
        for thing in made
        if thing["kind"] == "Secret"
        for key, value in thing["stringData"].items()
    }
    env = {"KUBERNETES_SERVICE_HOST": "10.152.183.1", "KUBERNETES_SERVICE_PORT": "443"}
    for variable in container["env"]:
        ref = variable.get("valueFrom", {}).get("secretKeyRef")
        name = variable["name"]
        env[name] = held[ref["name"], ref["key"]] if ref else variable["value"]
    return env


class Kubelet:
    """Asks the app at `url` as the container's probes say, at their own times.

    ready_s: seconds until it first was ready, or None. killed: why a cluster would have restarted
    it, else "". asked: probes so far, by name.
    """

    def __init__(self, container: Object, url: str) -> None:
        self.ready_s: float | None = None
        self.killed = ""
        self.asked: dict[str, int] = {}
        self._url, self._begin, self._end = url, time.monotonic(), threading.Event()
        self._http = httpx.Client(limits=httpx.Limits(max_keepalive_connections=0), trust_env=False)
        self._probes = {name: container[name] for name in container if name.endswith("Probe")}
        self._started = threading.Event()
        if "startupProbe" not in self._probes:
            self._started.set()

    @contextmanager
    def watching(self) -> Iterator[Kubelet]:
        """With a thread for each probe, as in a kubelet, until the block ends."""
        threads = [
            threading.Thread(target=self._watch, args=(name,), daemon=True) for name in self._probes
        ]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._end.set()
            for thread in threads:
                thread.join()
            self._http.close()

    def _watch(self, name: str) -> None:
        probe, failures = self._probes[name], 0
        self._end.wait(probe.get("initialDelaySeconds", 0))
        while not self._end.is_set():
            if name == "startupProbe" or self._started.is_set():
                failures = 0 if self._passes(name, probe) else failures + 1
                if failures >= probe.get("failureThreshold", 3):
                    self._failed(name)
                if name == "startupProbe" and not failures:
                    return self._started.set()
            self._end.wait(probe.get("periodSeconds", 10))
        return None

    def _passes(self, name: str, probe: Object) -> bool:
        self.asked[name] = self.asked.get(name, 0) + 1
        try:
            address = f"{self._url}{probe['httpGet']['path']}"
            status = self._http.get(address, timeout=probe.get("timeoutSeconds", 1)).status_code
        except httpx.TransportError:
            return False
        passed = 200 <= status < 400
        if passed and name == "readinessProbe" and self.ready_s is None:
            self.ready_s = time.monotonic() - self._begin
        return passed

    def _failed(self, name: str) -> None:
        if name != "readinessProbe" and not self.killed:
            after = time.monotonic() - self._begin
            self.killed = f"Its {name} failed too often, {after:.0f} s after its start."


@contextmanager
def limited(container: Object) -> Iterator[tuple[list[Path], str]]:
    """Files to write a process's id to, so that it has the container's limits, and what they are:
    of CPU and memory where the control groups of this machine can be written, else a reason."""
    limits = container["resources"]["limits"]
    cpu_us, memory = int(amount(limits["cpu"]) * PERIOD_US), int(amount(limits["memory"]))
    folders: list[Path] = []
    try:
        for folder in _groups(cpu_us, memory):
            folders.append(folder)  # each as it is made, so that a first one is removed too
        said = f"limits set: {limits['cpu']} CPU, {limits['memory']} of memory"
    except OSError as error:
        while folders:
            _remove(folders.pop())
        said = f"limits not set, memory is measured alone: {error}"
    try:
        yield [folder / "cgroup.procs" for folder in folders], said
    finally:
        for folder in folders:
            _remove(folder)


def _groups(cpu_us: int, memory: int) -> Iterator[Path]:
    """Makes one after the other."""
    name = f"pod-{uuid.uuid4().hex[:8]}"
    if (CGROUPS / "cgroup.controllers").exists():  # version 2
        values = {"cpu.max": f"{cpu_us} {PERIOD_US}", "memory.max": str(memory)}
        yield _group(CGROUPS / name, values)
        return
    cpu = {"cpu.cfs_period_us": str(PERIOD_US), "cpu.cfs_quota_us": str(cpu_us)}
    yield _group(CGROUPS / "cpu" / name, cpu)
    yield _group(CGROUPS / "memory" / name, {"memory.limit_in_bytes": str(memory)})


def _group(folder: Path, values: dict[str, str]) -> Path:
    folder.mkdir()
    try:
        for name, value in values.items():
            (folder / name).write_text(value)
    except OSError:
        folder.rmdir()
        raise
    return folder


def _remove(folder: Path) -> None:
    """Once its last process, which was killed, is gone."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return folder.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def throttled_s(files: list[Path]) -> float:
    """Seconds that processes of a group waited for CPU, because of its quota."""
    for file in files:
        stat = file.parent / "cpu.stat"
        if stat.exists():
            told: dict[str, Any] = dict(line.split() for line in stat.read_text().splitlines())
            if "throttled_usec" in told:
                return int(told["throttled_usec"]) / 1e6
            return int(told.get("throttled_time", 0)) / 1e9
    return 0.0


def join(files: list[Path]) -> str:
    """A line of shell by which a process, and all that it becomes, enters the groups.

    PermissionError when one cannot be written: the process would run without that limit."""
    for file in files:
        if not os.access(file, os.W_OK):
            raise PermissionError(f"{file} cannot be written, so the pod would have no limits.")
    return "".join(f"echo $$ > {file}\n" for file in files)

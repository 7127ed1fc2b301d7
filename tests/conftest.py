"""No test reaches beyond this machine: a connection to any other address fails the test."""

import ipaddress
import socket

import pytest

HEAVY = (
    "vllm", "image", "fuzz", "bad_days", "engine_drills", "crew_bad_days", "crew_on_nats",
    "model_page", "page", "crew_service", "crew_page", "live_limits", "model_server", "updates",
    "redeploy", "publish", "fourth_template", "push", "live_app", "one_trace", "mlflow_live",
    "evaluate_live", "answers", "doors", "names", "cluster", "watched", "sign_on", "legal_qa",
)  # fmt: skip
"""Files that take minutes, the longest first: one that is begun last leaves a core with nothing to
do while it ends."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {f"test_{name}.py": place for place, name in enumerate(HEAVY)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


@pytest.fixture(autouse=True)
def _this_machine_only(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            host = str(address[0])  # type: ignore[index]
            if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
                pytest.fail(f"A test tried to reach {host}; tests stay on this machine.")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", guarded)

"""The fleet on a real Kubernetes: installed, used, broken, upgraded, rolled back and removed."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.cluster.kubernetes_cli import CommandError, Release

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]

QUESTION = "What is the capital of France?"
# Asks the gateway again and again from inside the cluster and counts what fails.
ASK_ON = """
import json, sys, time, urllib.request
end, asked, failed = time.monotonic() + float(sys.argv[2]), 0, []
while time.monotonic() < end:
    try:
        urllib.request.urlopen(sys.argv[1] + "/v1/models", timeout=10).read()
    except OSError as err:
        failed.append(str(err))
    asked += 1
    time.sleep(0.1)
print(json.dumps({"asked": asked, "failed": failed}))
"""
# Tries every port of a pod and prints those that answer.
SCAN = """
import socket, sys
for port in range(1, 65536):
    with socket.socket() as probe:
        probe.settimeout(0.5)
        if probe.connect_ex((sys.argv[1], port)) == 0:
            print(port)
"""


def answer(release: Release) -> str:
    """Return what the model says through the gateway."""
    body = {
        "model": "smollm2-135m-instruct",
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "max_tokens": 16,
    }
    with release.forwarded("gateway", 8080) as port:
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        replied = httpx.post(url, json=body, timeout=120)
    replied.raise_for_status()
    return str(replied.json()["choices"][0]["message"]["content"])


def give_feedback(release: Release) -> str:
    """Send a thumb up and return its record's id."""
    with release.forwarded("gateway", 8080) as port:
        replied = httpx.post(
            f"http://127.0.0.1:{port}/v1/feedback",
            json={"completion_id": "chatcmpl-1", "rating": "up"},
            timeout=30,
        )
    replied.raise_for_status()
    return str(replied.json()["id"])


def kept(release: Release, record: str) -> bool:
    """Return whether Redis has the record."""
    return record in release.redis("XRANGE", "bem:feedback", record, record)


def ask_on(release: Release, seconds: int) -> dict[str, Any]:
    """Ask the gateway's Service from another pod for so long; returns how many and what failed."""
    script = ("python", "-c", ASK_ON, "http://bem-fleet-gateway:8080", str(seconds))
    asking = ("exec", "deploy/bem-fleet-validation", "--", *script)
    counted: dict[str, Any] = json.loads(release.kubectl(*asking, timeout_s=seconds + 60))
    return counted


def test_1_installed_fleet_answers(release: Release) -> None:
    """After `helm install --wait` the gateway answers with the real model."""
    assert "Paris" in answer(release)


def test_2_helm_test_passes(release: Release) -> None:
    """`helm test` asks by HTTP and by gRPC inside the cluster, and gives feedback."""
    said = release.helm("test", "--logs", "--timeout", "5m")

    assert "router: " in said
    assert "feedback: " in said


def test_3_mission_has_no_port_but_the_sidecars(release: Release) -> None:
    """Of all 65,535 ports of the mission's pod, two answer: the judged one and the metrics."""
    address = release.pod("router")["status"]["podIP"]
    scan = ("exec", "deploy/bem-fleet-validation", "--", "python", "-c", SCAN, address)
    found = release.kubectl(*scan, timeout_s=600)

    assert found.split() == ["9464", "50051"]


def test_4_pods_run_as_asked(release: Release) -> None:
    """Containers run without root and cannot write to their root."""
    shell = "id -u; touch /app/x 2>&1 || true"
    said = release.kubectl("exec", "deploy/bem-fleet-gateway", "--", "sh", "-c", shell)

    assert said.startswith("65532\n")
    assert "Read-only file system" in said


def test_5_feedback_outlives_its_redis(release: Release) -> None:
    """A record that was answered with 201 is there after Redis' pod was killed without a word."""
    record = give_feedback(release)
    release.kubectl("delete", "pod", "bem-fleet-redis-0", "--grace-period=0", "--force")
    release.rolled_out()

    assert kept(release, record)


def test_6_killed_mission_comes_back(release: Release) -> None:
    """A mission's pod that is killed is replaced, and the fleet answers as before."""
    name = release.pod("router")["metadata"]["name"]
    release.kubectl("delete", "pod", name, "--grace-period=0", "--force")
    release.rolled_out()

    assert release.pod("router")["metadata"]["name"] != name
    assert "Paris" in answer(release)


def test_7_upgrade_and_rollback_keep_data_and_answer(release: Release) -> None:
    """While an upgrade and its rollback replace pods no request fails and no record is lost."""
    record = give_feedback(release)
    secret = release.kubectl("get", "secret", "bem-fleet-redis", "-o", "jsonpath={.data}")
    changed = ["--set", "services.gateway.settings.MAX_BODY_BYTES=2097152", "--set"]
    with ThreadPoolExecutor(1) as beside:
        counting = beside.submit(ask_on, release, 60)
        release.helm("upgrade", "charts", *changed, "services.gateway.replicas=2", "--wait")
        release.helm("rollback", "1", "--wait")
        counted = counting.result()
    release.rolled_out()

    assert counted["asked"] > 50
    assert counted["failed"] == []
    assert release.pod("gateway")
    assert release.kubectl("get", "secret", "bem-fleet-redis", "-o", "jsonpath={.data}") == secret
    assert kept(release, record)
    assert "Paris" in answer(release)


def test_8_wrong_upgrade_changes_nothing(release: Release) -> None:
    """A value that does not exist stops the upgrade with its name; the release stays as it is."""
    before = release.helm("status", "-o", "json")
    with pytest.raises(CommandError, match="additional properties 'replica' not allowed"):
        release.helm("upgrade", "charts", "--set", "services.router.replica=2")

    assert (
        json.loads(release.helm("status", "-o", "json"))["version"]
        == (json.loads(before)["version"])
    )


def test_9_uninstall_leaves_nothing(release: Release) -> None:
    """`helm uninstall` removes every object, the volume's claim and the priority classes too."""
    release.helm("uninstall", "--wait", "--timeout", "5m")
    kinds = "all,pvc,secret,configmap,serviceaccount,networkpolicy,pdb,role,rolebinding"
    limit = time.monotonic() + 120
    while (left := release.objects(kinds)) and time.monotonic() < limit:
        time.sleep(1)  # the claim goes when the controller has seen the pod go

    assert [each["metadata"]["name"] for each in left] == []
    assert release.objects("priorityclasses") == []

"""Proof of the mission contract: a sixth mission is laid down and runs without another edit.

A copy of the tracked tree gets ``tools/new_mission.py sixth``. In it the mission starts under the
local fleet behind its own sidecar, answers there and through the gateway's generic route, is
scraped, has a canary split, renders in the chart, and passes the house test and import contracts.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import yaml
from bem_fleet.checkout import ROOT
from bem_fleet.descriptors import default_ports, load_descriptors, missions
from fleet.testing import free_port

NAME = "sixth"
BASE, CANDIDATE = "smollm2-135m-instruct", "passage-qa"
MISSIONS = {one.name for one in missions(load_descriptors())}
PROMPT = "Name the capital of France."
_COMMAND_S = 900.0
_SPLIT_S = 60.0
# Central files that new_mission regenerates; all others that it changes are the mission's own.
GENERATED = (
    *(
        "README.md",
        "docs/security.md",
        "charts/values.yaml",
        "charts/rules/fleet.yaml",
        "charts/dashboards/",
    ),
    *("tests/charts/golden/", "libs/bemfleet/", "services/"),
)
# Tests of whatever is derived from the descriptors, or walks the tree. Chart tests of Secrets,
# certificates, GitOps and live releases see no mission by its name; they run in their own suite.
SUITES = (
    f"tests/unit/services/{NAME}",
    "tests/unit/test_house.py",
    "tests/unit/bem_fleet/test_descriptors.py",
    "tests/unit/bem_fleet/cli",
    "tests/unit/docker/test_images.py",
    "tests/unit/tools",
    "tests/charts/test_alert_rules.py",
    "tests/charts/test_guards.py",
    "tests/charts/test_monitoring.py",
    "tests/charts/test_rendering.py",
    "tests/charts/test_values.py",
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@dataclass(frozen=True)
class Checkout:
    """A copy of the tree with the sixth mission.

    Attributes:
        root: Folder of the copy.
        changed: Files that differ from the original, beside the mission's own.
    """

    root: Path
    changed: tuple[str, ...]

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run Python in the copy, which shadows the installed project."""
        return self.execute([sys.executable, *arguments], **variables)

    def execute(self, command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the copy."""
        return subprocess.run(
            command,
            cwd=self.root,
            env={**self.environment, **variables},
            capture_output=True,
            text=True,
            check=False,
            timeout=_COMMAND_S,
        )

    @property
    def environment(self) -> dict[str, str]:
        """Environment in which the copy is imported."""
        path = f"{self.root / 'libs'}{os.pathsep}{self.root}"
        return {**os.environ, "PYTHONPATH": path}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """Copy the tree, lay the mission down, and list what it changed."""
    root = tmp_path_factory.mktemp("checkout")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    names = [name for name in listed if (ROOT / name).exists()]
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, root / name, follow_symlinks=False)
    for command in (("init", "-q"), ("add", "-A")):
        subprocess.run(["git", *command], cwd=root, check=True)
    made = Checkout(root, ())
    done = made.run("-m", "tools.new_mission", NAME)
    assert done.returncode == 0, done.stderr
    status = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=all"],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    changed = {line[3:] for line in status if line[1] != " "}
    own = (f"services/{NAME}/", f"protos/bemfleet/{NAME}/", f"tests/unit/services/{NAME}/")
    return Checkout(root, tuple(sorted(name for name in changed if not name.startswith(own))))


@dataclass(frozen=True)
class Fleet:
    """The running fleet of the copy.

    Attributes:
        checkout: The copy.
        variables: Ports and settings of the fleet.
    """

    checkout: Checkout
    variables: Mapping[str, str]

    def fleetctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``fleetctl`` in the copy."""
        return self.checkout.run("-m", "bem_fleet.cli.local", *arguments, **self.variables)

    def get(self, variable: str, path: str) -> str:
        """Return a page of the process whose port a variable moves."""
        url = f"http://127.0.0.1:{self.variables[variable]}{path}"
        return httpx.get(url, timeout=30).raise_for_status().text

    def post(self, path: str, body: Mapping[str, Any], **headers: str) -> tuple[Any, str]:
        """Post JSON to the gateway; returns its JSON and the track that answered."""
        url = f"http://127.0.0.1:{self.variables['GATEWAY_PORT']}{path}"
        response = httpx.post(url, json=body, headers=headers, timeout=60).raise_for_status()
        return response.json(), response.headers.get("X-Bem-Track", "")


@pytest.fixture(scope="module")
def fleet(checkout: Checkout) -> Iterator[Fleet]:
    """Bring the copy's fleet up on free ports; base models are taken from this tree's cache."""
    names = default_ports(load_descriptors(checkout.root))
    variables = {name: str(free_port()) for name in names}
    variables["RUN_DIR"] = str(checkout.root / ".run")
    for name in ("MEMORY", "ROUTER", NAME.upper()):
        variables[f"BEM_{name}_CACHE"] = str(ROOT / ".cache" / "models")
    made = Fleet(checkout, variables)
    try:
        started = made.fleetctl("up")
        logs = made.fleetctl("logs").stdout
        assert started.returncode == 0, started.stdout + started.stderr + logs
        yield made
    finally:
        made.fleetctl("down")


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Return whether a condition becomes true within a time."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if condition():
            return True
        time.sleep(0.25)
    return False


def test_no_central_file_is_edited_by_hand(checkout: Checkout) -> None:
    """Beside the mission's own files only generated ones differ."""
    by_hand = [name for name in checkout.changed if not name.startswith(GENERATED)]
    services = [name for name in checkout.changed if name.startswith("services/")]

    assert by_hand == []
    assert all(name.endswith("README.md") for name in services)


def test_house_contracts_and_generators_accept_it(checkout: Checkout) -> None:
    """The mission's tests, the house test, import contracts, proto lint and generators pass."""
    bin_folder = Path(sys.executable).parent
    # One run over all cores; dashboards, values and alerts are compared by the chart tests.
    suites = ("-m", "pytest", "-q", "-n", "auto", "--dist", "worksteal", *SUITES)
    commands = [
        [sys.executable, *suites],
        [str(bin_folder / "lint-imports")],
        [str(bin_folder / "buf"), "lint"],
        [sys.executable, "-m", "ruff", "check", "services", "tests/unit/services"],
        [sys.executable, "tools/gen_protos.py", "--check"],
        [sys.executable, "-m", "tools.docs_tables", "--check"],
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for command, done in zip(commands, pool.map(checkout.execute, commands), strict=True):
            assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}{done.stderr[-3000:]}"


def test_chart_renders_it(checkout: Checkout) -> None:
    """The chart has its Mission, Deployment behind a sidecar, Service, policy and dashboard."""
    code = "from tests.charts.rendering import VALUE_SETS, render; print(render(VALUE_SETS[2]))"
    done = checkout.run("-c", code)
    assert done.returncode == 0, done.stderr
    found = [one for one in yaml.safe_load_all(done.stdout) if one]
    named = {(one["kind"], one["metadata"]["name"]): one for one in found}
    full = f"bem-fleet-{NAME}"
    pod = named["Deployment", full]["spec"]["template"]["spec"]
    policy = named["NetworkPolicy", full]["spec"]["ingress"]
    callers = {
        peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
        for peer in policy[0]["from"]
    }
    gateway = named["Deployment", "bem-fleet-gateway"]["spec"]["template"]["spec"]
    own = {one["name"]: one.get("value") for one in gateway["containers"][0]["env"]}

    assert named["Mission", NAME]["spec"]["grpcService"] == "bemfleet.sixth.v1.SixthService"
    assert [one["name"] for one in pod["initContainers"]] == ["safety"]
    assert "ports" not in pod["containers"][0]
    assert callers == {"gateway", "inference-test", "orchestrator", "validation"}
    assert ("PodMonitor", full) in named
    assert ("ConfigMap", full) in named
    assert set(json.loads(own["BEM_GATEWAY_MISSIONS"])) == {*MISSIONS, NAME}
    assert ("Service", full) in named


def test_image_has_its_arguments(checkout: Checkout) -> None:
    """The image reuses the model's lock and needs no line in a list."""
    assert checkout.run("-m", "docker.images", NAME).stdout.split() == [
        *(NAME, "model", "model", "all", "none", "0GB")
    ]


def test_it_answers_through_its_sidecar_only(fleet: Fleet) -> None:
    """A gRPC client learns the method by reflection and calls it at the sidecar's port."""
    code = (
        "import sys, grpc\n"
        f"from bemfleet.{NAME}.v1 import {NAME}_pb2 as pb, {NAME}_pb2_grpc as rpc\n"
        "channel = grpc.insecure_channel(sys.argv[1])\n"
        f"stub = rpc.{NAME.capitalize()}ServiceStub(channel)\n"
        "print(stub.Generate(pb.GenerateRequest(prompt=sys.argv[2], max_tokens=16)).text)\n"
    )
    address = f"127.0.0.1:{fleet.variables[f'{NAME.upper()}_PORT']}"
    done = fleet.checkout.run("-c", code, address, PROMPT)
    status = json.loads(fleet.fleetctl("status", "--json").stdout)
    rows = {row["name"]: row for row in status["programs"]}

    assert "Paris" in done.stdout, done.stderr
    assert rows[NAME]["listens"] == "unix socket only"
    assert status["healthy"]
    # Weights are mapped from one file, so that PSS counts them once over both missions.
    assert all(row["pss_bytes"] for row in rows.values())
    with grpc.insecure_channel(address) as channel:
        grpc.channel_ready_future(channel).result(timeout=10)


def test_it_answers_through_the_gateway(fleet: Fleet) -> None:
    """The generic route knows the mission and its method without a line of code."""
    body = {"prompt": PROMPT, "max_tokens": 16}
    answer, _ = fleet.post(f"/v1/missions/{NAME}/Generate", body)
    listed = json.loads(fleet.get("GATEWAY_PORT", "/v1/missions"))["data"]

    assert "Paris" in answer["text"]
    assert {one["id"] for one in listed} == {*MISSIONS, NAME}


def test_it_is_scraped(fleet: Fleet) -> None:
    """Its metrics are on the sidecar's page, which is among Prometheus' targets."""
    page = fleet.get(f"{NAME.upper()}_METRICS_PORT", "/upstream/metrics")
    targets = json.loads((fleet.checkout.root / ".run/scrape-targets.json").read_text())
    port = fleet.variables[f"{NAME.upper()}_METRICS_PORT"]

    assert f"bem_{NAME}_requests_total" in page
    assert f"bem_{NAME}_requests_waiting" in page
    assert [one for one in targets if one["targets"] == [f"127.0.0.1:{port}"]]


def test_it_has_a_canary_split(fleet: Fleet) -> None:
    """An adapter canary splits sessions of the generic route, and an abort ends it."""
    address = f"127.0.0.1:{fleet.variables['ORCHESTRATOR_PORT']}"
    canary = ("canary", "--address", address)
    started = fleet.fleetctl(
        *(*canary, "start", NAME, "--model", CANDIDATE, "--step", "50:600", "--shadow", "0")
    )
    assert started.returncode == 0, started.stdout + started.stderr
    tracks: dict[str, set[str]] = {}
    sessions = iter(range(10_000))

    def ask() -> bool:
        body = {"model": BASE, "prompt": PROMPT, "max_tokens": 4}
        session = {"X-Session-Id": f"session-{next(sessions)}"}
        answer, track = fleet.post(f"/v1/missions/{NAME}/Generate", body, **session)
        kind = "adapter" if "+" in answer["model_version"] else "base"
        tracks.setdefault(track, set()).add(kind)
        return set(tracks) >= {"stable", "canary"}

    assert until(ask, _SPLIT_S), fleet.fleetctl(*canary, "status", NAME).stdout
    assert tracks["stable"] == {"base"}
    assert tracks["canary"] == {"adapter"}
    assert fleet.fleetctl(*canary, "abort", NAME).returncode == 0

"""Fuzz test of every RPC and route of the running fleet, in the small."""

from __future__ import annotations

from pathlib import Path

import pytest
from bem_fleet.cli.local.plan import Plan

from benchmarks.fuzz.grpc_fuzzer import GrpcFuzzer
from benchmarks.fuzz.http_fuzzer import HttpFuzzer
from benchmarks.fuzz.outcomes import Outcomes
from tests.e2e.conftest import Fleet

pytestmark = [pytest.mark.stage("clients"), pytest.mark.e2e, pytest.mark.slow]
RPC_INPUTS, ROUTE_INPUTS = 160, 240


def key_of(fleet: Fleet) -> str:
    """Return the operator's key, if the fleet wrote one."""
    file = Path(fleet.environment["RUN_DIR"]) / "operator.key"
    return file.read_text().strip() if file.is_file() else ""


async def test_no_input_causes_an_internal_error_or_a_restart(fleet: Fleet) -> None:
    """Well-formed, extreme and broken inputs get a status of their own from every method."""
    before = {program["name"]: program["pid"] for program in fleet.status()["programs"]}
    outcomes, key = Outcomes(), key_of(fleet)
    ports = {name: int(port) for name, port in fleet.environment.items() if name.endswith("PORT")}
    plan = Plan(run=Path(fleet.environment["RUN_DIR"]), ports=ports)
    for name in ("router", "validation", "orchestrator"):
        await GrpcFuzzer(name, plan.address(name), outcomes, key=key).run(RPC_INPUTS, 4)
    await HttpFuzzer(fleet.http, outcomes, key=key).run(ROUTE_INPUTS, 4)
    after = {program["name"]: program["pid"] for program in fleet.status()["programs"]}
    failures = {name: one.failures for name, one in outcomes.targets.items() if one.failures}

    assert not failures
    assert after == before
    assert outcomes.inputs >= 3 * RPC_INPUTS + ROUTE_INPUTS
    assert all(target.inputs > 2 for target in outcomes.targets.values())
    assert outcomes.count(["OK", "200"]) > 50
    assert outcomes.count(["INVALID_ARGUMENT", "400"]) > 50

"""Fuzz test of every RPC and route of a fleet with a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.fuzz.grpc_fuzzer import GrpcFuzzer
from benchmarks.fuzz.http_fuzzer import HttpFuzzer
from benchmarks.fuzz.outcomes import Outcomes
from benchmarks.fuzz.tiny_fleet import tiny_fleet

pytestmark = [pytest.mark.stage("fuzz"), pytest.mark.e2e, pytest.mark.slow]
RPC_INPUTS, ROUTE_INPUTS = 160, 240


async def test_no_input_causes_an_internal_error_or_a_restart(tmp_path: Path) -> None:
    """Well-formed, extreme and broken inputs get a status of their own from every method.

    The fleet is one of its own: operators' methods unload adapters and start canaries.
    """
    with tiny_fleet(tmp_path) as fleet:
        before = fleet.processes()
        outcomes, key = Outcomes(), fleet.operator_key
        assert key
        for name, address in fleet.grpc_servers.items():
            await GrpcFuzzer(name, address, outcomes, key=key).run(RPC_INPUTS, 4)
        await HttpFuzzer(fleet.http, outcomes, key=key).run(ROUTE_INPUTS, 4)
        after = fleet.processes()
    failures = {name: one.failures for name, one in outcomes.targets.items() if one.failures}

    assert not failures
    assert after == before
    assert outcomes.inputs >= 4 * RPC_INPUTS + ROUTE_INPUTS
    assert all(target.inputs > 2 for target in outcomes.targets.values())
    assert outcomes.count(["OK", "200"]) > 50
    assert outcomes.count(["INVALID_ARGUMENT", "400"]) > 50

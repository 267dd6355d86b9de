"""Suites of Triton's, LangChain's and LiteLLM's clients against the fleet."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.fuzz.schemathesis_run import run_schemathesis
from tests.e2e.conftest import Fleet
from tests.support.client_suites import client_python, run_suite

pytestmark = [pytest.mark.stage("clients"), pytest.mark.e2e, pytest.mark.slow]
# Fewest tests that pass; LangChain's own suite skips what a model does not offer.
FLOORS = {"triton_suite": 16, "langchain_suite": 21, "litellm_suite": 8}


def test_triton_suite_passes(fleet: Fleet, tmp_path: Path) -> None:
    """The unmodified client of Triton's gRPC protocol finds what the protocol promises."""
    result = run_suite("triton_suite", tmp_path, {"FLEET_SIDECAR": fleet.sidecar})

    assert not result.failed, result.output[-6_000:]
    assert result.passed >= FLOORS["triton_suite"], result.output[-2_000:]


@pytest.mark.parametrize("suite", ["langchain_suite", "litellm_suite"])
def test_suite_of_an_openai_client_library_passes(fleet: Fleet, tmp_path: Path, suite: str) -> None:
    """Libraries on top of OpenAI's protocol work unmodified."""
    environment = {"FLEET_URL": fleet.http, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    result = run_suite(suite, tmp_path, environment, python=client_python())

    assert not result.failed, result.output[-6_000:]
    assert result.passed >= FLOORS[suite], result.output[-2_000:]


def test_schemathesis_finds_no_server_error(fleet: Fleet) -> None:
    """What the gateway's own OpenAPI page promises is answered below 500."""
    binary = Path(client_python()).with_name("schemathesis")
    result = run_schemathesis(str(binary), fleet.http, max_examples=8)

    assert result.passed, result.output[-6_000:]
    assert result.generated >= 100

"""Evaluation of systems over gRPC."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from bem.errors import EvaluationError
from bem_fleet.evaluation.pipeline import Report, evaluate
from bem_fleet.evaluation.systems import SystemRun
from bem_fleet.evaluation.worker_system import WorkerSystem
from bem_fleet.studies.grpc_system import RouterModels

from tests.integration.routers import tiny_router
from tests.support.oracle_comparison import comparison, tiny_worker


async def test_service_and_library_give_the_same_answers(tmp_path: Path) -> None:
    """An adapter over gRPC and in this process gives the same greedy replies."""

    def compare(address: str) -> Report:
        with RouterModels(address) as models, tiny_worker(tmp_path / "own") as worker:
            mission = SystemRun(models.system("alpha"))
            own = SystemRun(WorkerSystem(worker, "alpha"))
            plan = comparison(mission, baseline=own, count=12)
            return evaluate(replace(plan, decoding=replace(plan.decoding, max_tokens=8)))

    async with tiny_router(tmp_path, rows=4, queue=32) as (running, _):
        report = await asyncio.to_thread(compare, running.address)

    assert report["replies"]["mission"] == report["replies"]["baseline"]
    assert report["tokens"]["mission"] == report["tokens"]["baseline"]
    assert "+" in report["mission"]["digest"]


async def test_unknown_model_and_unreachable_address_are_named(tmp_path: Path) -> None:
    """The error lists the loaded models, or names the address that is unreachable."""

    def open_system(address: str, model: str) -> None:
        with RouterModels(address) as models:
            models.system(model)

    async with tiny_router(tmp_path) as (running, _):
        with pytest.raises(EvaluationError, match="alpha, beta"):
            await asyncio.to_thread(open_system, running.address, "gamma")
    with pytest.raises(EvaluationError, match="UNAVAILABLE"):
        await asyncio.to_thread(open_system, f"unix:{tmp_path}/nobody.sock", "")

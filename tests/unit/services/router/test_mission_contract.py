"""Tests of the router's side of the mission contract."""

from pathlib import Path

from bem.testing import tiny_backbone
from bem_fleet.services.router.mission_contract import RouterContract
from bem_fleet.services.router.model_host import ModelHost

from tests.unit.services.router.fake_engine import DELTAS, FakeEngine


def contract_of(engine: FakeEngine) -> RouterContract:
    """A contract on the tiny model."""
    return RouterContract(ModelHost(tiny_backbone(), engine, Path()))


def test_the_base_model_is_described() -> None:
    """Name, digest and context are those of the host."""
    contract, backbone = contract_of(FakeEngine(DELTAS)), tiny_backbone()

    assert contract.base_model.base
    assert contract.base_model.name == backbone.name
    assert contract.base_model.version == backbone.digest
    assert contract.context_tokens == 512
    assert contract.loaded_adapters() == []


async def test_a_probe_is_greedy_and_names_the_served_version() -> None:
    """The version is that of the output, not that of the name."""
    engine = FakeEngine(DELTAS)
    answer = await contract_of(engine).probe("", "hi", 4)

    assert answer.text == "hello"
    assert answer.model_version.endswith("+" + "b" * 12)
    request = engine.handles[0].request
    assert (request.sampling.temperature, request.max_tokens) == (0, 4)

"""Tests of the adapter binding: leases, and the slots and codes of a pass."""

from pathlib import Path

import pytest
import torch
from bem.adapters.bank import AdapterBank
from bem.engine import GenerationRequest, Segment
from bem.engine.adapter_binding import AdapterBinding
from bem.engine.adapter_schedule import CodeSpan
from bem.errors import AdapterNotFoundError, InvalidRequestError
from bem.testing import tiny_backbone

from tests.support.random_adapters import FEATURE_LAYER, LAYERS, RANK
from tests.unit.bem.engine.engines import write_adapters
from tests.unit.bem.engine.sequences import make_sequence

PROMPT = tuple(range(8))
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> AdapterBank:
    """A bank of two slots with three adapters."""
    folder: Path = write_adapters(tmp_path_factory.mktemp("adapters"))
    made = AdapterBank(
        tiny_backbone(), layers=LAYERS, rank=RANK, slots=2, feature_layer=FEATURE_LAYER
    )
    for name in ("alpha", "beta", "gamma"):
        made.load(folder / name)
    return made


def test_leases_name_the_version_and_are_released(bank: AdapterBank) -> None:
    """An acquired segment carries the version that was current when it was acquired."""
    binding = AdapterBinding(bank, None, CPU)
    segments = binding.acquire(GenerationRequest(PROMPT, adapter="alpha"))
    assert [one.version for one in segments] == [bank.find("alpha").version]
    assert bank.leases() == 1
    binding.release(segments)

    assert bank.leases() == 0


def test_scale_zero_leases_nothing(bank: AdapterBank) -> None:
    """At scale 0 the adapter is looked up, and no slot is used."""
    segments = AdapterBinding(bank, None, CPU).acquire(
        GenerationRequest(PROMPT, adapter="alpha", adapter_scale=0.0)
    )

    assert segments[-1].adapter is None
    assert segments[-1].version == bank.find("alpha").version
    assert bank.leases() == 0


def test_a_failed_acquisition_releases_what_it_took(bank: AdapterBank) -> None:
    """If the second adapter is unknown, the lease of the first one ends."""
    earlier = (Segment(0, 4, "alpha"),)
    request = GenerationRequest(PROMPT, adapter="nobody", adapter_start=4, earlier_segments=earlier)
    with pytest.raises(AdapterNotFoundError):
        AdapterBinding(bank, None, CPU).acquire(request)

    assert bank.leases() == 0


def test_more_adapters_than_slots_are_refused(bank: AdapterBank) -> None:
    """A request that could never be admitted is refused at once."""
    earlier = (Segment(0, 2, "alpha"), Segment(2, 4, "beta"))
    request = GenerationRequest(PROMPT, adapter="gamma", adapter_start=4, earlier_segments=earlier)
    with pytest.raises(InvalidRequestError, match="3 adapters in one request; 2 can be resident"):
        AdapterBinding(bank, None, CPU).acquire(request)


def test_rows_get_slots_and_padded_codes(bank: AdapterBank) -> None:
    """A row of the base model names a used slot with a code of zeros."""
    binding = AdapterBinding(bank, None, CPU)
    adapter = bank.acquire("beta")
    code = torch.tensor([0.5, 2.0])
    sequences = [make_sequence(4, slot=slot) for slot in range(2)]
    binding.bind(sequences, [CodeSpan(), CodeSpan(adapter, code)])

    assert bank.row_codes.slots is not None
    assert bank.row_codes.codes is not None
    assert bank.row_codes.slots.tolist() == [[adapter.slot], [adapter.slot]]
    assert bank.row_codes.codes[0].eq(0).all()
    assert bank.row_codes.codes[1, 0].tolist() == [0.5, 2.0] + [0.0] * (RANK - 2)
    binding.bind(sequences, [CodeSpan(), CodeSpan()])
    assert bank.row_codes.slots is None
    bank.release(adapter)

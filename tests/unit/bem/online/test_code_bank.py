"""Tests of the code bank, and of what a codebook's border does to the model's output."""

import pytest
import torch
from bem.adapters import RowCodes, install_sites
from bem.errors import InvalidSettingError
from bem.online.code_bank import CodeBank
from bem.online.codebook import Codebook, make_condition
from bem.testing import tiny_backbone
from torch import Tensor

from tests.support.tiny_bank import LAYERS, RANK, WIDTH, tiny_bank, tiny_codebook

CODE = torch.linspace(-1, 1, WIDTH)
IDS = torch.tensor([[5, 6, 7, 8, 9], [9, 3, 2, 1, 0]])


def served(codebook: Codebook, states: Tensor) -> tuple[Tensor, list[str | None]]:
    """Return logits of the tiny model as it is served, with each row's condition."""
    bank, model, codes = tiny_bank(), tiny_backbone().model, RowCodes()
    sites = install_sites(model, layers=LAYERS, rank=RANK, slots=1, row_codes=codes)
    matches = [codebook.match(state) for state in states]
    for match in matches:
        if match is not None:
            for path, (a, b) in bank.adapter_factors(match.code).items():
                sites[path].write(0, (a, b), bank.scale)
    if any(match is not None for match in matches):
        gates = [float(match is not None) for match in matches]
        codes.set(
            torch.zeros(len(gates), 1, dtype=torch.int64),
            torch.tensor(gates)[:, None, None].expand(-1, 1, RANK),
        )
    with torch.no_grad():
        logits: Tensor = model(IDS).logits
    return logits, [match.name if match is not None else None for match in matches]


def learned() -> Codebook:
    """Return a codebook with one condition far from the unrelated prompts."""
    keys = 3 + 0.2 * torch.randn(20, 4, generator=torch.Generator().manual_seed(2))
    return tiny_codebook().with_condition(make_condition("c", keys, CODE))


def base_logits() -> Tensor:
    """Return the logits of the model without any site."""
    with torch.no_grad():
        logits: Tensor = tiny_backbone().model(IDS).logits
    return logits


def test_outside_of_all_radii_the_answer_is_bit_for_bit_the_base_models() -> None:
    """With a condition in the codebook, prompts that do not meet it have the base's logits."""
    near_the_border = torch.zeros(32)
    near_the_border[:4] = 3 + 1.001 * learned().conditions[0].radius / 2
    logits, matches = served(learned(), torch.stack([torch.zeros(32), near_the_border]))

    assert matches == [None, None]
    assert logits.equal(base_logits())


def test_inside_a_radius_only_that_row_changes() -> None:
    """A row that meets the condition has other logits; the other row keeps the base's bits."""
    inside = torch.zeros(32)
    inside[:4] = 3.0
    logits, matches = served(learned(), torch.stack([inside, torch.zeros(32)]))

    assert matches == ["c", None]
    assert not torch.allclose(logits[0], base_logits()[0], atol=0.1)
    assert logits[1].equal(base_logits()[1])


def test_code_is_split_by_site_and_scaled() -> None:
    """Site j has the numbers from j r on, times the scale of 2."""
    split = tiny_bank().by_site(CODE)

    assert list(split) == list(tiny_bank().sites)
    torch.testing.assert_close(torch.cat(list(split.values())), 2 * CODE)
    assert tiny_bank().by_site(CODE.expand(7, -1))[tiny_bank().sites[1]].shape == (7, RANK)


def test_plain_adapter_computes_the_gated_sum() -> None:
    """``B diag(code) A`` with a code of ones is ``B (code * A x)``."""
    bank = tiny_bank()
    path = bank.sites[2]
    a, b = bank.factors[path]
    x = torch.randn(a.shape[1], generator=torch.Generator().manual_seed(0))
    plain_a, plain_b = bank.adapter_factors(CODE)[path]

    torch.testing.assert_close(plain_b @ (plain_a @ x), b @ (CODE[8:12] * (a @ x)))


def test_factors_are_no_free_numbers() -> None:
    """No factor requires a gradient, and the code of zeros is as wide as a code."""
    bank = tiny_bank()

    assert not any(one.requires_grad for pair in bank.factors.values() for one in pair)
    assert bank.base_code().equal(torch.zeros(bank.width))
    assert bank.width == WIDTH


def test_what_is_no_bank_is_refused() -> None:
    """Ranks that differ, no site, a scale of 0 and codes of another width are errors."""
    pair = (torch.zeros(2, 3), torch.zeros(3, 2))
    with pytest.raises(InvalidSettingError, match="ranks"):
        CodeBank({"x": pair, "y": (torch.zeros(1, 3), torch.zeros(3, 1))}, scale=1.0)
    with pytest.raises(InvalidSettingError, match="there is no site"):
        CodeBank({}, scale=1.0)
    with pytest.raises(InvalidSettingError, match="scale: 0"):
        CodeBank({"x": pair}, scale=0.0)
    with pytest.raises(InvalidSettingError, match="need 2"):
        CodeBank({"x": pair}, scale=1.0).by_site(torch.zeros(3))

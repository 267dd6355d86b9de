"""Checks of an adapter against the bank that loads it."""

from pathlib import Path

import pytest
import torch
from bem.adapters.artifact import read_adapter
from bem.adapters.fit import check_controller, check_factors, check_name
from bem.adapters.row_codes import RowCodes
from bem.adapters.site import install_sites
from bem.errors import ArtifactFormatError
from bem.testing import tiny_backbone

from tests.support.random_adapters import RANK, write_adapter


def test_name_is_the_folders_and_not_the_base_models() -> None:
    """Requests name the folder, and the base model's name means the base model."""
    check_name("qa", folder_name="qa", base_name="base")
    check_name("qa", folder_name=None, base_name="base")
    with pytest.raises(ArtifactFormatError, match="folder 'other' states 'qa'"):
        check_name("qa", folder_name="other", base_name="base")
    with pytest.raises(ArtifactFormatError, match="'base' is the base model's"):
        check_name("base", folder_name="base", base_name="base")


def test_controller_reads_states_of_this_width(tmp_path: Path) -> None:
    """A controller of another base model is refused."""
    write_adapter(tmp_path, tiny_backbone(), "alpha", seed=1)
    adapter = read_adapter(tmp_path / "alpha", base_digest=tiny_backbone().digest)
    check_controller(adapter, 32)
    with pytest.raises(ArtifactFormatError, match=r"needs \(32, 48\)"):
        check_controller(adapter, 48)


def test_factors_need_a_site_of_their_shape() -> None:
    """Layers without sites, higher ranks and other widths are named with the setting."""
    sites = install_sites(
        tiny_backbone().model, layers=(2, 3), rank=RANK, slots=1, row_codes=RowCodes()
    )
    good = "model.layers.2.self_attn.o_proj"
    check_factors("x", {good: (torch.ones(2, 32), torch.ones(32, 2))}, sites, RANK)
    wrong = {
        "in layers 2 to 3.*FIRST_LAYER": {
            good.replace(".2.", ".1."): (torch.ones(2, 32), torch.ones(32, 2))
        },
        "rank 5.*setting RANK": {good: (torch.ones(5, 32), torch.ones(32, 5))},
        "maps 31 to 32": {good: (torch.ones(2, 31), torch.ones(32, 2))},
    }
    for named, factors in wrong.items():
        with pytest.raises(ArtifactFormatError, match=named):
            check_factors("x", factors, sites, RANK)

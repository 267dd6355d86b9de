"""What an engine gives back: the mapped file of its weights."""

from pathlib import Path

import pytest
import torch
from bem.engine.pages import leave_file
from bem.testing import tiny_backbone
from transformers import LlamaForCausalLM


def test_a_model_leaves_its_file_with_the_same_values(tmp_path: Path) -> None:
    """No page of the file stays mapped, and every parameter is what it was."""
    if not Path("/proc/self/maps").exists():
        pytest.skip("this system does not show what is mapped")
    tiny_backbone().model.save_pretrained(tmp_path)
    model = LlamaForCausalLM.from_pretrained(tmp_path)
    wanted = {name: value.clone() for name, value in model.state_dict().items()}

    leave_file(model)

    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
    assert all(torch.equal(value, wanted[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("changed", [False, True])
def test_what_is_rarely_read_stays_in_the_file(tmp_path: Path, *, changed: bool) -> None:
    """The embedding is the only tensor left in the file, unless the file lacks its values."""
    if not Path("/proc/self/maps").exists():
        pytest.skip("this system does not show what is mapped")
    tiny_backbone().model.save_pretrained(tmp_path)
    model = LlamaForCausalLM.from_pretrained(tmp_path)
    if changed:
        model.model.embed_tokens.weight.data[3] = 7.0
    wanted = {name: value.clone() for name, value in model.state_dict().items()}

    leave_file(model, model.model.embed_tokens.weight)

    assert (str(tmp_path) in Path("/proc/self/maps").read_text()) is not changed
    assert all(torch.equal(value, wanted[name]) for name, value in model.state_dict().items())

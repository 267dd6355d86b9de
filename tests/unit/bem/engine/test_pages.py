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

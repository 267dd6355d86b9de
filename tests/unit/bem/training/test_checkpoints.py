"""Tests of checkpoints: parameters, optimiser state and position come back."""

from pathlib import Path

import pytest
import torch
from bem.errors import ArtifactFormatError
from bem.training.checkpoints import read_checkpoint, truncate_curve, write_checkpoint
from torch import nn

CONFIG = {"layers": (1, 2), "rank": 4}


def trained(steps: int) -> tuple[dict[str, nn.Parameter], torch.optim.Optimizer]:
    """Return two parameters, the second of which never has a gradient, after some steps."""
    parameters = {"used": nn.Parameter(torch.ones(3)), "unused": nn.Parameter(torch.ones(2))}
    optimizer = torch.optim.AdamW(parameters.values())
    for _ in range(steps):
        step(parameters, optimizer)
    return parameters, optimizer


def step(parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    """Take one step on the sum of squares of the used parameter."""
    parameters["used"].grad = 2 * parameters["used"].detach()
    optimizer.step()
    optimizer.zero_grad()


def test_resumed_optimiser_continues_as_before(tmp_path: Path) -> None:
    """The next step after a restore is the step that would have followed."""
    parameters, optimizer = trained(3)
    write_checkpoint(tmp_path, CONFIG, {"step": 3}, parameters, optimizer)
    restored, other = trained(0)
    position = read_checkpoint(tmp_path, CONFIG, restored, other)
    for these, this in ((parameters, optimizer), (restored, other)):
        step(these, this)

    assert position == {"step": 3}
    assert torch.equal(restored["used"], parameters["used"])
    assert torch.equal(restored["unused"], parameters["unused"])
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.safetensors"]


def test_missing_and_foreign_checkpoints(tmp_path: Path) -> None:
    """No file is a fresh start; a file of another configuration is an error."""
    parameters, optimizer = trained(1)
    assert read_checkpoint(tmp_path, CONFIG, parameters, optimizer) is None
    write_checkpoint(tmp_path, CONFIG, {"step": 1}, parameters, optimizer)
    with pytest.raises(ValueError, match="another training configuration"):
        read_checkpoint(tmp_path, {**CONFIG, "rank": 5}, parameters, optimizer)


@pytest.mark.parametrize("kept", [0, 4, 8, 40, 200, -1])
def test_truncated_checkpoint_says_so(tmp_path: Path, kept: int) -> None:
    """Wherever the file ends, the error says what to do, and no parameter was changed."""
    parameters, optimizer = trained(2)
    write_checkpoint(tmp_path, CONFIG, {"step": 2}, parameters, optimizer)
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    restored, other = trained(0)
    with pytest.raises(ArtifactFormatError, match=r"truncated or no checkpoint; remove"):
        read_checkpoint(tmp_path, CONFIG, restored, other)

    assert torch.equal(restored["used"], torch.ones(3))


def test_checkpoint_of_other_parameters_is_refused(tmp_path: Path) -> None:
    """A parameter that the file lacks, or has in another shape, is named."""
    parameters, optimizer = trained(1)
    write_checkpoint(tmp_path, CONFIG, {"step": 1}, parameters, optimizer)
    for more in ({"new": nn.Parameter(torch.ones(1))}, {"used": nn.Parameter(torch.ones(4))}):
        (name,) = more
        with pytest.raises(ArtifactFormatError, match=f"lacks {name}"):
            read_checkpoint(tmp_path, CONFIG, {**parameters, **more}, optimizer)


def test_curve_is_cut_to_the_checkpoint(tmp_path: Path) -> None:
    """Later lines are removed; a shorter or missing curve stays as it is."""
    curve = tmp_path / "curve.jsonl"
    truncate_curve(curve, 2)
    assert not curve.exists()
    curve.write_text("1\n2\n3\n")
    truncate_curve(curve, 5)
    assert curve.read_text() == "1\n2\n3\n"
    truncate_curve(curve, 2)
    assert curve.read_text() == "1\n2\n"

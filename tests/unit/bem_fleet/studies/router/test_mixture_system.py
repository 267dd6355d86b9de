"""Tests of the system of a mixture, on the tiny base model."""

from pathlib import Path

import pytest
import torch
from bem.errors import EvaluationError
from bem.testing import tiny_backbone
from bem_fleet.evaluation.systems import Chat, Decoding, Message
from bem_fleet.recipes.router.adapter_mixtures import (
    CLASSIFIER,
    XLoraTraining,
    export_tasks,
    open_xlora,
    save_xlora,
)
from bem_fleet.studies.router import seed_runs
from bem_fleet.studies.router.mixture_system import MixtureSystem
from bem_fleet.studies.router.seed_runs import ARROW, XLORA, RouterFolders, open_seed_runs

from tests.unit.bem_fleet.studies.router.test_main import write_seed

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
CHATS: list[Chat] = [(Message("user", "one"),), (Message("user", "another one"),)]


def write_mixture(folder: Path) -> RouterFolders:
    """Write the artifacts of a seed with an untrained X-LoRA classifier."""
    tasks, backbone = write_seed(folder, 3), tiny_backbone()
    settings = XLoraTraining(width=8)
    model = open_xlora(backbone, export_tasks(backbone, tasks, folder / "peft"), settings)
    save_xlora(folder / "xlora", model, settings, command="x", measured={})
    monoliths = {"monolith-chain": tasks / "monolith-chain"}
    return RouterFolders(tasks, monoliths, tasks / "policy", xlora=folder / "xlora", arrow=True)


def test_mixtures_of_a_seed_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both answer every conversation within the limit, each with a digest of its own."""
    monkeypatch.setattr(seed_runs, "load_backbone", lambda **_: tiny_backbone(context_tokens=2048))

    with open_seed_runs([write_mixture(tmp_path)], tmp_path) as (run,):
        found = {
            name: dict(system.respond(CHATS, Decoding(max_tokens=4), 0))
            for name, system in run.mixtures.items()
        }

    assert list(found) == [XLORA, ARROW]
    for answers in found.values():
        assert sorted(answers) == [0, 1]
        assert all(one.completion_tokens <= 4 for one in answers.values())
        assert answers[0].prompt_tokens < answers[1].prompt_tokens
    assert len({system.digest for system in run.mixtures.values()}) == 2


def test_a_reply_ends_at_the_end_of_turn(tmp_path: Path) -> None:
    """What is generated behind the prompt is the reply, without the token that ends it."""
    backbone = tiny_backbone()
    end = min(backbone.end_token_ids)
    said = backbone.tokenizer.encode("yes", add_special_tokens=False)

    class Fixed:
        def generate(self, *, input_ids: torch.Tensor, **_: object) -> torch.Tensor:
            return torch.cat([input_ids, torch.tensor([[*said, end]])], 1)

    (tmp_path / CLASSIFIER).write_bytes(b"weights")
    system = MixtureSystem(Fixed(), backbone, "x", [tmp_path / CLASSIFIER])

    (_, response), *_ = system.respond(CHATS, Decoding(), 0)

    assert (response.text, response.completion_tokens) == ("yes", len(said))
    with pytest.raises(EvaluationError, match=r"temperature: 0.5"):
        next(system.respond(CHATS, Decoding(temperature=0.5), 0))

"""Tests of the adapter trainer: it learns, and an interrupted run resumes without a trace."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
import torch
from bem.adapters.artifact import AdapterCard, save_adapter
from bem.adapters.bank import AdapterBank
from bem.adapters.site_variants import VARIANTS, Variant
from bem.engine import LLMEngine, ScoreRequest
from bem.prompt_encoding import PromptEncoder
from bem.testing import tiny_backbone
from bem.training.activation_cache import EncodedExample
from bem.training.strategy import Strategy
from bem.training.trainer import AdapterTrainer, TrainingConfig, epoch_batches, warmup_cosine

from tests.support.tiny_training import ITEMS, examples, training_config


def gradients(trainer: AdapterTrainer, data: list[EncodedExample]) -> dict[str, torch.Tensor]:
    """Return the gradients of one batch, with factors and controller moved away from zero."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in trainer.parameters.values():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    trainer.accumulate_gradients(data)
    return {name: p.grad for name, p in trainer.parameters.items() if p.grad is not None}


def losses(folder: Path) -> list[float]:
    """Return the losses of a curve."""
    return [json.loads(line)["loss"] for line in (folder / "curve.jsonl").read_text().splitlines()]


def test_loss_falls_and_the_base_stays(tmp_path: Path) -> None:
    """Factors and controller change; the base model does not."""
    backbone = tiny_backbone()
    before = {name: p.clone() for name, p in backbone.model.named_parameters()}
    trainer = AdapterTrainer(backbone, training_config(30), tmp_path)
    data = examples()
    first = trainer.mean_loss(data).item()
    trainer.run(data)

    assert trainer.mean_loss(data).item() < 0.9 * first
    assert len(losses(tmp_path)) == 60
    after = dict(backbone.model.named_parameters())
    assert set(after) == set(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("strategy", [Strategy(row_tokens=1), Strategy(recompute=True)])
def test_strategies_give_the_same_gradients(strategy: Strategy, tmp_path: Path) -> None:
    """Every sequence on its own, or states recomputed: the gradients are those of one row."""
    data = examples()
    expected = gradients(AdapterTrainer(tiny_backbone(), training_config(1), tmp_path), data)
    found = gradients(
        AdapterTrainer(tiny_backbone(), training_config(1), tmp_path, strategy=strategy), data
    )

    assert expected
    assert set(found) == set(expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_served_as_it_was_trained(variant: Variant, tmp_path: Path) -> None:
    """The loss of the trainer is that of the engine with the artifact, after some steps."""
    backbone, data = tiny_backbone(), examples()
    config = replace(training_config(1), variant=variant, rank=8)
    trainer = AdapterTrainer(backbone, config, tmp_path)
    fresh = trainer.mean_loss(data).item()
    gradients(trainer, data)
    trainer.train_step(data, 1)
    trained = trainer.mean_loss(data).item()
    card = AdapterCard(
        name="trained",
        base_name=backbone.name,
        base_digest=backbone.digest,
        layers=list(config.layers),
        kinds=list(config.kinds),
        rank=trainer.rank,
        scale=config.scale,
        feature_layer=config.feature_layer,
        variant=config.variant,
        active_ranks=config.active_ranks,
        command="test",
        data_digest="0",
        seed=0,
    )
    # float32 instead of the float16 of trained artifacts, so that no rounding hides a difference.
    factors = trainer.factors
    tensors = trainer.tensors()
    for path, (a, b) in factors.items():
        tensors[f"{path}.A"], tensors[f"{path}.B"] = a.detach().clone(), b.detach().clone()
    save_adapter(tmp_path / "trained", card, tensors)
    bank = AdapterBank(backbone, layers=(2, 3), rank=trainer.rank, slots=1, feature_layer=0)
    bank.load(tmp_path / "trained")
    scorer = LLMEngine(backbone, bank).core.scorer
    encoder = PromptEncoder(backbone.tokenizer)
    requests = [
        ScoreRequest(
            tuple(encoder.encode_chat([{"role": "user", "content": one.prompt()}])),
            (*encoder.encode_text(one.reply()), min(backbone.end_token_ids)),
            adapter,
        )
        for one in ITEMS
        for adapter in (None, "trained")
    ]
    with torch.inference_mode():
        base, served = (
            [value for one in requests[start::2] for value in scorer.score([one])[0]]
            for start in (0, 1)
        )

    assert -sum(base) / len(base) == pytest.approx(fresh, abs=1e-4)
    assert -sum(served) / len(served) == pytest.approx(trained, abs=1e-3)
    assert trained != pytest.approx(fresh, abs=1e-3)
    assert bank.find("trained").card.variant == variant


def test_sites_in_all_layers_train_from_token_ids(tmp_path: Path) -> None:
    """Without layers below the sites only ids are cached; without control the code is one."""
    everywhere = TrainingConfig(
        layers=(0, 1, 2, 3),
        rank=4,
        feature_layer=-1,
        control=False,
        epochs=20,
        batch=6,
        learning_rate=0.01,
    )
    data = examples(0, -1)
    trainer = AdapterTrainer(tiny_backbone(), everywhere, tmp_path)
    first = trainer.mean_loss(data).item()
    trainer.run(data)

    assert data[0].hidden.dtype == torch.int64
    assert trainer.mean_loss(data).item() < 0.9 * first
    assert not any("controller" in name for name in trainer.parameters)


KILLED = """
import os, signal, sys
from pathlib import Path
from bem.testing import tiny_backbone
from bem.training.trainer import AdapterTrainer
from tests.support.tiny_training import ITEMS, examples, training_config
trainer = AdapterTrainer(tiny_backbone(), training_config(4), Path(sys.argv[1]), save_steps=3)
step = trainer.train_step
def die_later(batch, total):
    if trainer.step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(batch, total)
trainer.train_step = die_later
trainer.run(examples())
"""


def test_killed_run_continues_with_the_same_curve(tmp_path: Path) -> None:
    """A process killed between two checkpoints, inside an epoch, resumes with the same curve."""
    root = Path(__file__).resolve().parents[4]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "broken")],
        cwd=root,
        env={**os.environ, "PYTHONPATH": f"{root}:{root / 'libs'}"},
        check=False,
        capture_output=True,
    )
    data = examples()
    complete = AdapterTrainer(tiny_backbone(), training_config(4), tmp_path / "complete")
    complete.run(data)
    resumed = AdapterTrainer(tiny_backbone(), training_config(4), tmp_path / "broken")
    at_kill = losses(tmp_path / "broken")
    resumed.run(data)

    assert killed.returncode == -signal.SIGKILL
    assert len(at_kill) == 5
    assert resumed.step == complete.step == 8
    assert losses(tmp_path / "broken") == pytest.approx(losses(tmp_path / "complete"), abs=1e-5)
    for name, tensor in complete.tensors().items():
        torch.testing.assert_close(resumed.tensors()[name], tensor, rtol=1e-3, atol=1e-5)


def test_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    """A changed configuration never continues an old run."""
    AdapterTrainer(tiny_backbone(), training_config(1), tmp_path).run(examples())
    with pytest.raises(ValueError, match="another training configuration"):
        AdapterTrainer(tiny_backbone(), training_config(2), tmp_path).run(examples())


def test_learning_rate_warms_up_and_decays() -> None:
    """Linear over 5 % of the steps, then a cosine that ends near zero."""
    shares = [warmup_cosine(step, 100) for step in range(100)]

    assert shares[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert shares[5] == 1.0
    assert shares[5:] == sorted(shares[5:], reverse=True)
    assert 0 < shares[-1] < 0.001


def test_batches_of_an_epoch_repeat_and_differ_between_epochs() -> None:
    """Each example occurs once; a resumed run sees the same order."""
    data = examples()
    config = training_config(2)
    first, again, other = (epoch_batches(data, config, epoch) for epoch in (0, 0, 1))

    def lengths(batches: list[list[EncodedExample]]) -> list[list[int]]:
        return [[len(e.labels) for e in batch] for batch in batches]

    assert lengths(first) == lengths(again)
    assert sorted(chain(*lengths(first))) == sorted(chain(*lengths(other)))
    assert [len(batch) for batch in sorted(first, key=len)] == [2, 4]

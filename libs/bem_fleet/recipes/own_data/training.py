"""Training of an adapter on instructions: token counts, an estimate, and a run that stops early."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bem.adapters.site import default_layers
from bem.backbone import Backbone
from bem.prompt_encoding import PromptEncoder
from bem.training.activation_cache import EncodedExample, TokenPair, encode_sequences
from bem.training.early_stopping import EarlyStopping
from bem.training.trainer import AdapterTrainer, TrainingConfig, epoch_batches
from torch import Tensor

from bem_fleet.data.instruction_files import Instruction, InstructionFileError

_PROBE_EXAMPLES = 16


@dataclass(frozen=True)
class TokenCounts:
    """Tokens of a data set.

    Attributes:
        items: Number of instructions that are used.
        prompt: Tokens of their prompts.
        reply: Tokens of their replies, which are trained.
        left_out: Lines of the instructions that exceed the token limit.
    """

    items: int
    prompt: int
    reply: int
    left_out: tuple[int, ...]

    def text(self, name: str) -> str:
        """Return one line for people."""
        shown = f"{name}: {self.items} items, {self.prompt} prompt and {self.reply} reply tokens"
        if not self.left_out:
            return shown
        lines = ", ".join(map(str, self.left_out[:8])) + (", ..." if self.left_out[8:] else "")
        return f"{shown}; {len(self.left_out)} longer than --max-tokens left out (lines {lines})"


@dataclass(frozen=True)
class Estimate:
    """Expected time of a run, from measured steps of its own data.

    Attributes:
        prepare_s: Seconds for the frozen lower layers, once.
        steps: Number of steps at most; early stopping may end before.
        step_s: Seconds of a mean step.
    """

    prepare_s: float
    steps: int
    step_s: float

    @property
    def total_s(self) -> float:
        """Seconds of the whole run at most."""
        return self.prepare_s + self.steps * self.step_s


def tokenise(
    backbone: Backbone, instructions: Sequence[Instruction], max_tokens: int
) -> tuple[list[TokenPair], TokenCounts]:
    """Return the token ids of prompts and replies, and their counts.

    Args:
        backbone: Base model, whose chat template renders the messages.
        instructions: Instructions of one file.
        max_tokens: Longest example, prompt and reply together; longer ones are left out.

    Raises:
        InstructionFileError: No example is short enough.
        InvalidRequestError: The chat template refuses a conversation.
    """
    encoder, end = PromptEncoder(backbone.tokenizer), min(backbone.end_token_ids)
    pairs, left_out = [], []
    for one in instructions:
        pair = encoder.encode_chat(one.chat()), [*encoder.encode_text(one.reply), end]
        if len(pair[0]) + len(pair[1]) > max_tokens:
            left_out.append(one.line)
        else:
            pairs.append(pair)
    if not pairs:
        raise InstructionFileError(
            f"every example has more than {max_tokens} tokens; raise --max-tokens or shorten them"
        )
    counts = TokenCounts(
        len(pairs),
        sum(len(prompt) for prompt, _ in pairs),
        sum(len(reply) for _, reply in pairs),
        tuple(left_out),
    )
    return pairs, counts


def encode(
    trainer: AdapterTrainer, pairs: Sequence[TokenPair], folder: Path | None, *, progress: bool
) -> list[EncodedExample]:
    """Run the frozen lower layers of a trainer's model over examples."""
    config = trainer.config
    return encode_sequences(
        trainer.backbone,
        pairs,
        first_layer=min(config.layers),
        feature_layer=config.feature_layer,
        folder=folder,
        progress=progress,
    )


def estimate(trainer: AdapterTrainer, pairs: Sequence[TokenPair]) -> Estimate:
    """Measure some examples of the data; the trainer is left as it was.

    Args:
        trainer: Trainer before its first step.
        pairs: Token ids of all training examples.
    """
    every = max(1, len(pairs) // _PROBE_EXAMPLES)
    probe = list(pairs[::every][:_PROBE_EXAMPLES])
    tokens, total = _tokens(probe), _tokens(pairs)
    began = time.perf_counter()
    examples = encode(trainer, probe, None, progress=False)
    lower_s = time.perf_counter() - began
    batch = epoch_batches(examples, trainer.config, 0)[0]
    trainer.accumulate_gradients(batch)  # the first pass merges weights
    began = time.perf_counter()
    trainer.accumulate_gradients(batch)
    step_s = time.perf_counter() - began
    trainer.optimizer.zero_grad(set_to_none=True)
    batch_tokens = sum(len(one.labels) for one in batch)
    steps_in_epoch = math.ceil(len(pairs) / trainer.config.batch)
    return Estimate(
        lower_s * total / tokens,
        trainer.config.epochs * steps_in_epoch,
        step_s * (total / steps_in_epoch) / batch_tokens,
    )


def run_training(
    trainer: AdapterTrainer,
    examples: Sequence[EncodedExample],
    stopping: EarlyStopping | None,
) -> dict[str, Tensor]:
    """Train, or resume a run, and return the tensors of its best epoch.

    Args:
        trainer: Trainer with its folder of checkpoints.
        examples: Training examples.
        stopping: Early stopping; None trains all epochs and returns the last tensors.
    """
    if stopping is None:
        trainer.run(examples)
        return trainer.tensors()
    if not stopping.has_stopped:
        trainer.run(examples, stopping)
    return stopping.best_tensors()


def make_config(
    backbone: Backbone, *, rank: int, kinds: Sequence[str], **options: float
) -> TrainingConfig:
    """Return the configuration of a LoRA adapter in the upper half of the layers.

    Args:
        backbone: Base model.
        rank: Rank of the factors.
        kinds: Target modules in each layer.
        options: ``epochs``, ``batch``, ``learning_rate``, ``scale`` and ``seed``.
    """
    count = len(backbone.layers)
    first, feature = default_layers(count)
    return TrainingConfig(
        layers=tuple(range(first, count)),
        kinds=tuple(kinds),
        rank=rank,
        feature_layer=feature,
        control=False,
        epochs=int(options["epochs"]),
        batch=int(options["batch"]),
        learning_rate=options["learning_rate"],
        scale=options["scale"],
        seed=int(options["seed"]),
    )


def _tokens(pairs: Sequence[TokenPair]) -> int:
    return sum(len(prompt) + len(reply) for prompt, reply in pairs)

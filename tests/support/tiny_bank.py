"""Random bank of codes for the tiny base model, and feedback for it."""

import torch
from bem.online.code_bank import CodeBank
from bem.online.codebook import Codebook, Whitening
from bem.online.feedback import FeedbackExample

LAYERS = (2, 3)
RANK = 4
WIDTH = 16
"""Numbers of a code: two sites in each of two layers."""


def tiny_bank(seed: int = 0) -> CodeBank:
    """Return a random bank for layers 2 and 3 of the tiny base model."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return (0.3 * torch.randn(*shape, generator=generator)).half()

    factors = {}
    for layer in LAYERS:
        for module, width in (("self_attn.o_proj", 32), ("mlp.down_proj", 64)):
            factors[f"model.layers.{layer}.{module}"] = (draw(RANK, width), draw(32, RANK))
    return CodeBank(factors, scale=2.0)


def tiny_feedback(count: int, *, condition: str = "c", seed: int = 0) -> list[FeedbackExample]:
    """Return corrections with random tokens, every third with a hint."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> tuple[int, ...]:
        length = int(torch.randint(low, high, (1,), generator=generator))
        return tuple(torch.randint(0, 256, (length,), generator=generator).tolist())

    out = []
    for number in range(count):
        prompt, reply = draw(4, 12), draw(2, 6)
        hinted = (*reply, *prompt) if number % 3 == 0 else ()
        name = f"{condition}-{seed}-{number}"
        out.append(FeedbackExample(name, condition, f"u{number % 5}", prompt, reply, hinted=hinted))
    return out


def tiny_codebook(width: int = 32, *, unrelated: int = 200) -> Codebook:
    """Return a codebook without conditions, whose whitening keeps four numbers of a state."""
    generator = torch.Generator().manual_seed(1)
    whitening = Whitening(torch.zeros(width), torch.eye(width)[:, :4])
    return Codebook(whitening, 0.1 * torch.randn(unrelated, 4, generator=generator))

"""A model whose likelihoods, gradients and Fisher matrices have closed forms.

The logit of word v after a prompt is ``features[prompt, v] . code``, the same at each token of a
reply.
"""

from collections.abc import Sequence

import torch
from bem.online.distillation import hint_divergence, teacher_targets
from bem.online.feedback import FeedbackExample
from bem.online.objective import ExampleLosses, Teachers
from torch import Tensor

WORDS, WIDTH, PROMPTS = 5, 3, 4


class SoftmaxModel:
    """Implements ``CodeLikelihood``."""

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        shape = (PROMPTS, WORDS, WIDTH)
        self.features = torch.randn(shape, generator=generator, dtype=torch.float64)

    def log_probabilities(self, code: Tensor, prompt: int) -> Tensor:
        """Return the log-probabilities ``[V]`` after a prompt."""
        return torch.log_softmax(self.features[prompt] @ code, -1)

    def fisher(self, code: Tensor, prompt: int) -> Tensor:
        """Return the Fisher matrix of one token after a prompt."""
        chances = self.log_probabilities(code, prompt).exp()
        features = self.features[prompt]
        mean = chances @ features
        return features.T @ (features * chances[:, None]) - torch.outer(mean, mean)

    def losses(
        self,
        code: Tensor,
        examples: Sequence[FeedbackExample],
        teachers: Teachers,
        *,
        gradients: bool,
    ) -> ExampleLosses:
        """Return the losses of examples under a code."""
        copies = code.double().expand(len(examples), -1).clone().requires_grad_()
        nll, hint = [], []
        for own, one, teacher in zip(copies, examples, teachers, strict=True):
            words = self.log_probabilities(own, one.prompt[0])
            nll.append(-words[list(one.reply)].sum())
            logits = words.expand(len(one.reply), -1)
            hint.append(
                own.sum() * 0 if teacher is None else hint_divergence(logits, teacher).mean()
            )
        values = [torch.stack(one) for one in (nll, hint)]
        tokens = torch.tensor([float(len(one.reply)) for one in examples], dtype=torch.float64)
        slopes = [torch.autograd.grad(one.sum(), copies, retain_graph=True)[0] for one in values]
        plain = [one.detach().double() for one in values]
        if not gradients:
            return ExampleLosses(plain[0], plain[1], tokens)
        return ExampleLosses(plain[0], plain[1], tokens, slopes[0], slopes[1])

    def scores(
        self, code: Tensor, examples: Sequence[FeedbackExample], *, draws: int, seed: int
    ) -> Tensor:
        """Return the scores of drawn replies."""
        generator = torch.Generator().manual_seed(seed)
        out = torch.zeros(len(examples), draws, WIDTH, dtype=torch.float64)
        for at, one in enumerate(examples):
            chances = self.log_probabilities(code.double(), one.prompt[0]).exp()
            features = self.features[one.prompt[0]] - chances @ self.features[one.prompt[0]]
            words = torch.multinomial(
                chances.expand(draws, -1), len(one.reply), replacement=True, generator=generator
            )
            out[at] = features[words].sum(1)
        return out

    def teachers(self, code: Tensor, examples: Sequence[FeedbackExample]) -> Teachers:
        """Return targets at the prompt that the hint begins with."""
        return [
            teacher_targets(
                self.log_probabilities(code.double(), one.hinted[0]).expand(len(one.reply), -1)
            )
            if one.hinted
            else None
            for one in examples
        ]

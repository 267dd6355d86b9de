"""Likelihoods of feedback as functions of a code, computed by the training decoder.

Every sequence of a packed row has a copy of the code of its own, so that one backward pass gives
the gradient of each example: the copies of one example meet no other example's tokens.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from bem.backbone import Backbone
from bem.online.code_bank import CodeBank
from bem.online.distillation import TeacherTargets, hint_divergence, teacher_targets
from bem.online.feedback import FeedbackExample
from bem.online.objective import ExampleLosses, Teachers
from bem.training.activation_cache import EncodedExample, encode_sequences
from bem.training.decoder import TrainingDecoder
from bem.training.packing import PackedRow, assign_rows, pack_row

_FrozenPair = tuple[tuple[int, ...], tuple[int, ...]]

ROW_TOKENS = 2048
CACHED_EXAMPLES = 4096
"""Examples of which the states below the sites are kept: an update reads each many times."""


class DecoderLikelihood:
    """Likelihoods under a base model with a bank; implements ``CodeLikelihood``.

    Args:
        backbone: Base model.
        bank: Bank of the codes; its sites are sites of this model.
        feature_layer: Decoder layer whose states are pooled into keys, below all sites.
        row_tokens: Sequences are packed into rows of at most this many tokens.
    """

    def __init__(
        self,
        backbone: Backbone,
        bank: CodeBank,
        *,
        feature_layer: int,
        row_tokens: int = ROW_TOKENS,
    ) -> None:
        self.bank = bank
        self._backbone, self._feature_layer = backbone, feature_layer
        self._first_layer = min(int(path.split(".")[2]) for path in bank.sites)
        self._row_tokens = row_tokens
        self._decoder = TrainingDecoder(backbone, compute_dtype=torch.float32)
        self._factors = {
            path: (a.to(self._decoder.device), b.to(self._decoder.device))
            for path, (a, b) in bank.factors.items()
        }
        self._encoded: OrderedDict[_FrozenPair, EncodedExample] = OrderedDict()

    def losses(
        self,
        code: Tensor,
        examples: Sequence[FeedbackExample],
        teachers: Teachers,
        *,
        gradients: bool,
    ) -> ExampleLosses:
        """Return the losses of examples under a code ``[P]``; see ``CodeLikelihood``."""
        count = len(examples)
        nll, hint = torch.zeros(2, count, dtype=torch.float64)
        slopes = torch.zeros(2, count, self.bank.width, dtype=torch.float64)
        for indices, row in self._rows([(one.prompt, one.reply) for one in examples]):
            with torch.set_grad_enabled(gradients):
                codes = self._copies(code, len(indices), gradients=gradients)
                logits = self._reply_logits(row, codes)
                owners = _owners(row)
                taken = torch.log_softmax(logits, -1).gather(-1, row.labels[:, None])[:, 0]
                losses = torch.zeros(len(indices), device=taken.device).index_add(0, owners, -taken)
                chosen = [teachers[index] for index in indices]
                hints = _hint_losses(logits, owners, chosen)
            nll[indices], hint[indices] = (
                losses.detach().cpu().double(),
                hints.detach().cpu().double(),
            )
            if gradients:
                taught = hints.requires_grad
                slopes[0, indices] = _gradient(losses.sum(), codes, keep=taught)
                if taught:
                    slopes[1, indices] = _gradient(hints.sum(), codes, keep=False)
        tokens = torch.tensor([len(one.reply) for one in examples], dtype=torch.float64)
        if not gradients:
            return ExampleLosses(nll, hint, tokens)
        return ExampleLosses(nll, hint, tokens, slopes[0], slopes[1])

    def scores(
        self, code: Tensor, examples: Sequence[FeedbackExample], *, draws: int, seed: int
    ) -> Tensor:
        """Return gradients of log-likelihoods of drawn replies, ``[N, draws, P]`` float64."""
        generator = torch.Generator(self._decoder.device).manual_seed(seed)
        out = torch.zeros(len(examples), draws, self.bank.width, dtype=torch.float64)
        for indices, row in self._rows([(one.prompt, one.reply) for one in examples]):
            codes = self._copies(code, len(indices), gradients=True)
            log_probabilities = torch.log_softmax(self._reply_logits(row, codes), -1)
            chances = log_probabilities.detach().exp()
            for draw in range(draws):
                drawn = torch.multinomial(chances, 1, generator=generator)
                total = log_probabilities.gather(-1, drawn).sum()
                out[indices, draw] = _gradient(total, codes, keep=draw + 1 < draws)
        return out

    @torch.no_grad()
    def teachers(self, code: Tensor, examples: Sequence[FeedbackExample]) -> Teachers:
        """Return the targets of the hinted model under a code ``[P]``; None without a hint."""
        hinted = [at for at, one in enumerate(examples) if one.hinted]
        found: list[TeacherTargets | None] = [None] * len(examples)
        pairs = [(examples[at].hinted, examples[at].reply) for at in hinted]
        for indices, row in self._rows(pairs):
            logits = self._reply_logits(row, self._copies(code, len(indices), gradients=False))
            owners = _owners(row)
            for place, index in enumerate(indices):
                found[hinted[index]] = teacher_targets(logits[owners == place])
        return found

    @torch.no_grad()
    def divergence(self, live: Tensor, code: Tensor, examples: Sequence[FeedbackExample]) -> float:
        """Return the mean ``KL(live || code)`` of the next-token distributions, nats a token.

        Args:
            live: ``[P]`` code of the live version.
            code: ``[P]`` code to compare with it.
            examples: Replies at whose tokens the distributions are compared, at least 1.
        """
        total, tokens = 0.0, 0
        for indices, row in self._rows([(one.prompt, one.reply) for one in examples]):
            old, new = (
                self._reply_logits(row, self._copies(one, len(indices), gradients=False))
                for one in (live, code)
            )
            targets = teacher_targets(old, old.shape[-1])
            total += float(hint_divergence(new, targets).sum())
            tokens += len(row.labels)
        return total / tokens

    def states(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Return the pooled states of prompts at the feature layer, ``[N, D]`` float32.

        Args:
            prompts: Token ids of each prompt, at least one prompt.
        """
        encoded = self._encode([(tuple(prompt), ()) for prompt in prompts])
        return torch.stack([one.feature for one in encoded])

    def _rows(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]
    ) -> Iterator[tuple[list[int], PackedRow]]:
        """Yield packed rows with the indices of their sequences."""
        lengths = [len(prompt) + len(reply) for prompt, reply in pairs]
        for indices in assign_rows(lengths, self._row_tokens):
            # Only the states of one row are in use at a time, whatever the cache still holds.
            row = pack_row(self._encode([pairs[at] for at in indices]))
            yield indices, row.to(self._decoder.device)

    def _encode(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[EncodedExample]:
        keys = [(tuple(prompt), tuple(reply)) for prompt, reply in pairs]
        missing = [key for key in dict.fromkeys(keys) if key not in self._encoded]
        if missing:
            made = encode_sequences(
                self._backbone,
                [(list(prompt), list(reply)) for prompt, reply in missing],
                first_layer=self._first_layer,
                feature_layer=self._feature_layer,
                compute_dtype="float32",
                progress=False,
            )
            self._encoded.update(zip(missing, made, strict=True))
        found = [self._encoded[key] for key in keys]
        for key in keys:
            self._encoded.move_to_end(key)
        while len(self._encoded) > CACHED_EXAMPLES:
            self._encoded.popitem(last=False)
        return found

    def _copies(self, code: Tensor, count: int, *, gradients: bool) -> Tensor:
        """Return a copy of the code for each sequence, ``[S, P]``."""
        copies = code.detach().float().to(self._decoder.device).expand(count, -1).clone()
        return copies.requires_grad_(gradients)

    def _reply_logits(self, row: PackedRow, codes: Tensor) -> Tensor:
        """Return the logits at the reply tokens of a row, ``[N, V]`` float32."""
        states = row.states if row.states.dim() == 2 else self._decoder.embed(row.states)
        lengths = torch.tensor(row.lengths, device=codes.device)
        by_token = {
            path: one.repeat_interleave(lengths, dim=0)
            for path, one in self.bank.by_site(codes).items()
        }
        outputs = self._decoder.run_layers(
            states,
            row.lengths,
            layers=range(self._first_layer, len(self._backbone.layers)),
            factors=self._factors,
            code=by_token,
            positions=row.positions,
        )
        return self._decoder.logits(outputs)


def _owners(row: PackedRow) -> Tensor:
    """Return the index of the sequence of each reply token, ``[N]``."""
    lengths = torch.tensor(row.lengths, device=row.positions.device)
    sequences = torch.arange(len(row.lengths), device=row.positions.device)
    return sequences.repeat_interleave(lengths)[row.positions]


def _hint_losses(logits: Tensor, owners: Tensor, teachers: Teachers) -> Tensor:
    """Return the mean divergence of each sequence from its teacher, ``[S]``; 0 without one."""
    zero = torch.zeros((), device=logits.device)
    return torch.stack([
        zero if one is None else hint_divergence(logits[owners == place], one).mean()
        for place, one in enumerate(teachers)
    ])  # fmt: skip


def _gradient(total: Tensor, codes: Tensor, *, keep: bool) -> Tensor:
    (found,) = torch.autograd.grad(total, codes, retain_graph=keep)
    return found.cpu().double()

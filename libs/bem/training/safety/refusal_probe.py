"""Refusal probe: whether replies open with the refusal, without decoding them.

A greedy reply opens with given tokens exactly if each of them is the most likely one after those
before it. One forward pass over the prompt and these tokens checks all of them at once, as in the
verification step of speculative decoding (arXiv 2211.17192). Nothing below the first layer with
sites depends on the safety strength, so that part is computed once for all strengths.

Example:
    The opening has two tokens, ``I 'm``. For a prompt of three tokens the pass reads
    ``p1 p2 p3 I 'm`` and looks at two positions. At ``p3`` the model gives ``I`` the probability
    0.9, its largest; at ``I`` it gives ``'m`` 0.4, but ``want`` 0.5. The greedy reply does not
    refuse, since its second token is ``want``; a sampled reply refuses with 0.9 * 0.4 = 0.36.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bem.backbone import Backbone
from bem.safety import SafetyArtifact
from bem.training.activation_cache import EncodedExample, encode_sequences, prompt_ids
from bem.training.family_decoder import open_decoder
from bem.training.packing import assign_rows, pack_row
from bem.training.safety.examples import opening_ids
from bem.training.strategy import select_compute_dtype

_ROW_TOKENS = 2048


@dataclass(frozen=True)
class RefusalMeasurement:
    """Refusals of a set of prompts.

    Attributes:
        refused: ``[S]`` bool, whether the greedy reply opens with the refusal.
        probability: ``[S]``, probability that a sampled reply does.
    """

    refused: Tensor
    probability: Tensor


class RefusalProbe:
    """Measures refusals of fixed prompts under safety adapters at any strength.

    Args:
        backbone: Base model without sites.
        texts: Prompts whose first tokens are compared.
        first_layer: First layer of the safety adapters that will be measured.
        feature_layer: Layer that their value heads read.
        cache: Folder for cached activations.

    Attributes:
        features: ``[S, F]``, input of the value heads.
    """

    def __init__(
        self,
        backbone: Backbone,
        texts: Sequence[str],
        *,
        first_layer: int,
        feature_layer: int,
        cache: Path,
    ) -> None:
        opening = opening_ids(backbone)
        self.examples: list[EncodedExample] = encode_sequences(
            backbone,
            [(prompt_ids(backbone, text), opening) for text in texts],
            first_layer=first_layer,
            feature_layer=feature_layer,
            folder=cache / "features",
        )
        self.features = torch.stack([example.feature for example in self.examples])
        compute_dtype = select_compute_dtype(backbone, "auto")
        self._decoder = open_decoder(backbone, compute_dtype=compute_dtype)
        self._layers = range(first_layer, len(backbone.layers))

    @torch.no_grad()
    def measure(
        self,
        artifact: SafetyArtifact,
        strengths: Tensor,
        base: RefusalMeasurement | None = None,
    ) -> RefusalMeasurement:
        """Return the refusals with each prompt at its own strength of the adapter.

        Args:
            artifact: Safety adapter.
            strengths: ``[S]``, factor of the adapter's code; 0 is the base model.
            base: Measurement at strength 0, if known; prompts with strength 0 are copied from it.
        """
        refused = torch.zeros(len(self.examples), dtype=torch.bool)
        probability = torch.zeros(len(self.examples))
        pending = list(range(len(self.examples)))
        if base:
            refused, probability = base.refused.clone(), base.probability.clone()
            pending = strengths.nonzero().squeeze(1).tolist()
        factors = artifact.site_factors()
        for members in assign_rows([len(self.examples[i].labels) for i in pending], _ROW_TOKENS):
            indices = [pending[i] for i in members]
            row = pack_row([self.examples[index] for index in indices])
            token_strength = strengths[indices].repeat_interleave(torch.tensor(row.lengths))
            code = (token_strength * artifact.card.scale).unsqueeze(1)
            outputs = self._decoder.run_layers(
                row.states,
                row.lengths,
                layers=self._layers,
                factors=factors,
                code=code.expand(-1, artifact.card.rank),
                positions=row.positions,
            )
            logits = self._decoder.logits(outputs)
            most_likely = (logits.argmax(-1) == row.labels).view(len(indices), -1)
            log_p = logits.log_softmax(-1).gather(1, row.labels.unsqueeze(1))
            refused[indices] = most_likely.all(1)
            probability[indices] = log_p.view(len(indices), -1).sum(1).exp()
        return RefusalMeasurement(refused, probability)

"""How replies open at many strengths of the adapter, without decoding them one by one.

A greedy reply opens with given tokens exactly when each is the likeliest one after those before
it, and one forward pass over the prompt and these tokens shows all of them at once (the
verification of speculative decoding, arXiv 2211.17192). Below the adapter nothing depends on its
strength, so that part is computed once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from bem_fleet.recipes.safety.examples import OPENING_TOKENS, prompt_ids, refusal_ids
from torch import Tensor

from bem.backbone import Backbone
from bem.safety import SafetyArtifact
from bem.training.decoder import TrainingDecoder
from bem.training.features import Example, cache_tokens
from bem.training.packing import fill_rows, pack
from bem.training.strategy import settle_arithmetic

_ROW_TOKENS = 2048


@dataclass(frozen=True)
class Openings:
    """What was found, by prompt.

    Attributes:
        opened: ``[S]`` bool, whether the greedy reply opens with the refusal.
        probability: ``[S]``, that a sampled reply does.
    """

    opened: Tensor
    probability: Tensor


class OpeningProbe:
    """Looks at the openings of replies to fixed prompts.

    Args:
        backbone: Without sites.
        texts: The prompts.
        first_layer: First layer of the adapters that will be looked at.
        feature_layer: Layer that their value heads read.
        cache: For encoded states.
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
        opening = refusal_ids(backbone)[:OPENING_TOKENS]
        self.examples: list[Example] = cache_tokens(
            backbone,
            [(prompt_ids(backbone, text), opening) for text in texts],
            first_layer=first_layer,
            feature_layer=feature_layer,
            folder=cache / "features",
        )
        self.features = torch.stack([example.feature for example in self.examples])
        self._decoder = TrainingDecoder(backbone, arithmetic=settle_arithmetic(backbone, "auto"))
        self._layers = range(first_layer, len(backbone.layers))

    @torch.no_grad()
    def look(
        self, artifact: SafetyArtifact, strengths: Tensor, base: Openings | None = None
    ) -> Openings:
        """Return how each reply opens at its own strength ``[S]`` of the adapter.

        Args:
            artifact: The adapter.
            strengths: At 0 it is the base model.
            base: How replies open at strength 0, where that is known; they are not looked at again.
        """
        opened = torch.zeros(len(self.examples), dtype=torch.bool)
        probability = torch.zeros(len(self.examples))
        asked = list(range(len(self.examples)))
        if base:
            opened, probability = base.opened.clone(), base.probability.clone()
            asked = strengths.nonzero().squeeze(1).tolist()
        factors = artifact.site_factors()
        for picked in fill_rows([len(self.examples[i].labels) for i in asked], _ROW_TOKENS):
            places = [asked[i] for i in picked]
            row = pack([self.examples[place] for place in places])
            own = strengths[places].repeat_interleave(torch.tensor(row.lengths))
            code = (own * artifact.card.scale).unsqueeze(1).expand(-1, artifact.card.rank)
            found = self._decoder.run(
                row.states,
                row.lengths,
                layers=self._layers,
                factors=factors,
                code=code,
                wanted=row.wanted,
            )
            logits = self._decoder.logits(found)
            likeliest = (logits.argmax(-1) == row.labels).view(len(places), -1)
            chosen = logits.log_softmax(-1).gather(1, row.labels.unsqueeze(1))
            opened[places] = likeliest.all(1)
            probability[places] = chosen.view(len(places), -1).sum(1).exp()
        return Openings(opened, probability)

"""Prefix states: keys and values of frozen prefixes, computed once for all examples behind them.

An activated adapter (arXiv 2504.12397) starts behind a prefix that runs on the base model, so
nothing of the prefix depends on the trained factors. Its keys and values in the layers with sites
are kept, and training runs only the tokens behind it. The gradient is that of the whole sequence.

Each prefix is a file of bfloat16 values, named by a hash of all that it depends on, so that other
tasks and seeds, and a run that was interrupted, find what is there.
"""

import hashlib
import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from bem.backbone import Backbone
from bem.files import write_atomic
from bem.training.activation_cache import EncodedExample, TokenPair, reply_labels
from bem.training.decoder import TrainingDecoder
from bem.training.strategy import ComputeDtype, select_compute_dtype

_LAYOUT = 1


class PrefixEncoder:
    """Encodes sequences behind prefixes.

    Args:
        backbone: Base model without sites.
        first_layer: First decoder layer with sites.
        feature_layer: Layer whose output over the prompt is averaged, below ``first_layer``.
        folder: Folder of the prefixes' files; created if missing.
        compute_dtype: Dtype of matrix products.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        first_layer: int,
        feature_layer: int,
        folder: Path,
        compute_dtype: ComputeDtype = "auto",
    ) -> None:
        if not 0 <= feature_layer < first_layer:
            raise ValueError(
                f"feature layer {feature_layer} is not below the first layer with sites "
                f"{first_layer}; prefixes need at least one layer below the sites"
            )
        dtype = select_compute_dtype(backbone, compute_dtype)
        self._decoder = TrainingDecoder(backbone, compute_dtype=dtype)
        self._backbone, self._folder = backbone, folder
        self._below = range(feature_layer + 1), range(feature_layer + 1, first_layer)
        self._above = range(first_layer, len(backbone.layers))
        folder.mkdir(parents=True, exist_ok=True)

    @torch.no_grad()
    def encode(self, sequences: Sequence[TokenPair], starts: Sequence[int]) -> list[EncodedExample]:
        """Return the examples of the tokens behind the prefixes, in the order of the sequences.

        Args:
            sequences: Token ids of each prompt and reply.
            starts: First token of each prompt that runs with the adapter; at least 1.
        """
        prefixes = [
            tuple(prompt[:start]) for (prompt, _), start in zip(sequences, starts, strict=True)
        ]
        order = sorted(range(len(sequences)), key=lambda place: prefixes[place])
        found: dict[int, EncodedExample] = {}
        with tqdm(total=len(order), desc="prefixes", unit="item") as bar:
            for prefix, group in groupby(order, key=lambda place: prefixes[place]):
                places = list(group)
                examples = self._encode_group(prefix, [sequences[place] for place in places])
                found |= dict(zip(places, examples, strict=True))
                bar.update(len(places))
        return [example for _, example in sorted(found.items())]

    def _encode_group(
        self, prefix: Sequence[int], sequences: Sequence[TokenPair]
    ) -> list[EncodedExample]:
        """Return the examples of sequences behind one prefix."""
        decoder, count = self._decoder, len(prefix)
        own = [[*prompt[count:], *reply] for prompt, reply in sequences]
        lengths = [len(ids) for ids in own]
        states = decoder.embed(torch.tensor([*prefix, *(one for ids in own for one in ids)]))
        before, behind = states.split([count, sum(lengths)])
        features = []
        for layers in self._below:
            kept: list[Tensor] = []
            before = decoder.run_layers(before, [count], layers=layers, kept=kept)
            earlier = [torch.stack(kept)] * len(own) if kept else []
            behind = decoder.run_layers(behind, lengths, layers=layers, prefixes=earlier)
            features.append((before.float().sum(0), behind.float()))
        kept_above = self._states_above(prefix, before)
        total, tokens = features[0]
        examples = []
        for (prompt, reply), hidden, low in zip(
            sequences, behind.split(lengths), tokens.split(lengths), strict=True
        ):
            feature = (total + low[: len(prompt) - count].sum(0)) / len(prompt)
            labels = reply_labels(len(prompt) - count, reply)
            own_states = hidden.to(self._backbone.model.dtype, copy=True)
            examples.append(EncodedExample(own_states, feature, labels, prefix=kept_above))
        return examples

    def _states_above(self, prefix: Sequence[int], hidden: Tensor) -> Tensor:
        """Return the mapped keys and values of the layers with sites, ``[L, P, 2 K D]``."""
        config = self._backbone.model.config
        head = config.hidden_size // config.num_attention_heads
        shape = (len(self._above), len(prefix), 2 * config.num_key_value_heads * head)
        path = self._folder / f"{self._key(prefix)}.bin"
        if not path.exists():
            kept: list[Tensor] = []
            self._decoder.run_layers(hidden, [len(prefix)], layers=self._above, kept=kept)
            values = torch.stack(kept).bfloat16().cpu().view(torch.int16).numpy()
            write_atomic(path, values.tobytes())
        size = shape[0] * shape[1] * shape[2]
        flat = torch.from_file(str(path), shared=False, size=size, dtype=torch.bfloat16)
        return flat.view(shape)

    def _key(self, prefix: Sequence[int]) -> str:
        head = [_LAYOUT, self._backbone.digest, str(self._backbone.model.dtype), self._above.start]
        return hashlib.sha256(json.dumps([head, list(prefix)]).encode()).hexdigest()[:32]

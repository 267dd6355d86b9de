"""Development figures of a safety adapter: shares of refused requests that it was not trained on.

Requests are those of the development split: harmless ones of other origins than the training's,
and written harmful and harmless ones. The value head's threshold is calibrated on such requests,
so that its figures on new origins are lower; the held-out sets stay closed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from bem.backbone import Backbone
from bem.safety import SafetyArtifact
from bem.safety.overlay import load_value_head
from bem.training.safety.refusal_probe import RefusalProbe

from bem_fleet.data.benign_prompts import load_benign_requests
from bem_fleet.recipes.safety.examples import MAX_CHARS, written_requests
from bem_fleet.stats.clustered_share import clustered_share


@dataclass(frozen=True)
class DevelopmentRequest:
    """Request that a safety adapter is measured on.

    Attributes:
        text: The request.
        family: Origin of the request, the unit of the intervals.
        harmful: Whether it should be refused.
    """

    text: str
    family: str
    harmful: bool


def development_requests(count: int) -> list[DevelopmentRequest]:
    """Return harmful requests and as many harmless ones, half of these packaged.

    Args:
        count: Largest number of either kind.
    """
    packaged = [
        one for one in load_benign_requests("dev") if not one.adapter and len(one.text) <= MAX_CHARS
    ]
    written = {
        harmless: written_requests("dev", count, harmless=harmless, longest=MAX_CHARS)
        for harmless in (True, False)
    }
    half = count // 2
    return [
        *(DevelopmentRequest(one.text, one.family, harmful=True) for one in written[False]),
        *(DevelopmentRequest(one.text, one.family, harmful=False) for one in packaged[:half]),
        *(
            DevelopmentRequest(one.text, one.family, harmful=False)
            for one in written[True][: count - half]
        ),
    ]


def measure_refusals(
    backbone: Backbone,
    artifact: SafetyArtifact,
    requests: Sequence[DevelopmentRequest],
    cache: Path,
) -> dict[str, Any]:
    """Return shares of refused requests with 95 % intervals over families, by kind and setting.

    Settings are the base model, strength 1 as it is served (scaled by the value head), and the
    adapter alone, with a value of 1 for every request.

    Args:
        backbone: Base model without sites.
        artifact: Safety adapter of it.
        requests: Requests of both kinds.
        cache: Folder of cached activations.
    """
    card = artifact.card
    probe = RefusalProbe(
        backbone,
        [one.text for one in requests],
        first_layer=min(card.layers),
        feature_layer=card.feature_layer,
        cache=cache,
    )
    with torch.no_grad():
        value = load_value_head(artifact)(probe.features)
    none = torch.zeros(len(requests))
    base = probe.measure(artifact, none)
    measured = {
        "base": base.refused,
        "served": probe.measure(artifact, value, base).refused,
        "adapter_alone": probe.measure(artifact, torch.ones(len(requests)), base).refused,
        "above_threshold": value > 0,
    }
    figures: dict[str, Any] = {}
    for kind, harmful in (("harmful", True), ("harmless", False)):
        rows = [row for row, one in enumerate(requests) if one.harmful == harmful]
        families = [requests[row].family for row in rows]
        figures[kind] = {"items": len(rows), "families": len(set(families))}
        for setting, refused in measured.items():
            found = clustered_share(refused[rows].numpy(), 0.5, item_clusters=families)
            figures[kind][setting] = [round(one, 4) for one in (found.share, found.low, found.high)]
    return figures

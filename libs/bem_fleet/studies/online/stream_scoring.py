"""Scores of a method after a whole stream of corrections, by free generation."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bem_fleet.studies.online.correction_stream import Correction, StudyItems
from bem_fleet.studies.online.correction_systems import CorrectionSystem

FIXED = 0.9
"""Share of held-out paraphrases from which a family is fixed."""
LOOKS = 3
"""Looks at which it has to stay so."""


@dataclass(frozen=True)
class StreamScore:
    """Shares, each in [0, 1].

    Attributes:
        efficacy: Corrected prompts that are answered as corrected; wrong corrections do not count.
        paraphrase: Probes that are answered exactly as wanted, by family.
        neighbours_kept: Requests of other families that are answered as the base model does.
        unrelated_kept: Unrelated requests that are answered as the base model does.
        fixed_after: Corrections of a family after which its probes stay right; None if they do not.
    """

    efficacy: float
    paraphrase: dict[str, float]
    neighbours_kept: float
    unrelated_kept: float
    fixed_after: dict[str, int | None]

    def to_json(self) -> dict[str, Any]:
        """Return the score as a JSON object."""
        return asdict(self)


def score_stream(
    system: CorrectionSystem,
    stream: Sequence[Correction],
    items: StudyItems,
    base: Callable[[Sequence[str]], list[str]],
    look: int,
) -> StreamScore:
    """Let a method learn a stream, look at the probes meanwhile, and score it at the end.

    Args:
        system: Method that has learned nothing yet.
        stream: Corrections of all families in turn.
        items: Probes and requests that must not change.
        base: Answers of the base model.
        look: Corrections between two looks at the probes, at least 1.
    """
    families = sorted({one.family for one in stream})
    looks: list[tuple[int, dict[str, float]]] = []
    for start in range(0, len(stream), look):
        system.learn(stream[start : start + look])
        seen = min(start + look, len(stream)) // len(families)
        looks.append((seen, _paraphrase(system, items)))
    right = [one for one in stream if not one.wrong]
    replies = system.answers([one.prompt for one in right])
    return StreamScore(
        efficacy=_share([a == one.reply for a, one in zip(replies, right, strict=True)]),
        paraphrase=looks[-1][1],
        neighbours_kept=_kept(system, items.neighbours, base),
        unrelated_kept=_kept(system, items.unrelated, base),
        fixed_after={name: fixed_after([(n, one[name]) for n, one in looks]) for name in families},
    )


def fixed_after(looks: Sequence[tuple[int, float]]) -> int | None:
    """Return the corrections before the first of the looks from which all shares are high enough.

    Args:
        looks: Corrections so far, and the share of right probes, of each look in turn. A family is
            fixed only if ``LOOKS`` looks, or all that are left, show it.
    """
    for at, (count, _) in enumerate(looks):
        rest = [share for _, share in looks[at:]]
        if min(rest) >= FIXED and len(rest) >= min(LOOKS, len(looks)):
            return count
    return None


def _paraphrase(system: CorrectionSystem, items: StudyItems) -> dict[str, float]:
    answers = system.answers([one.request for one in items.probes])
    right: dict[str, list[bool]] = {}
    for answer, one in zip(answers, items.probes, strict=True):
        right.setdefault(one.family, []).append(answer == one.wanted.strip())
    return {name: _share(found) for name, found in sorted(right.items())}


def _kept(
    system: CorrectionSystem, prompts: Sequence[str], base: Callable[[Sequence[str]], list[str]]
) -> float:
    if not prompts:
        return 1.0
    return _share([a == b for a, b in zip(system.answers(prompts), base(prompts), strict=True)])


def _share(found: Sequence[bool]) -> float:
    return sum(found) / len(found) if found else 0.0

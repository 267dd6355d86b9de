"""Codebook of conditions: which prompts a learned code applies to.

A condition is a ball around a key in the whitened space of pooled prompt states. Outside of all
balls nothing is active, so that the model answers bit for bit as before. The radii share one
conformal threshold: of prompts that are like the unrelated calibration prompts, at most the
allowed share meets any condition of the whole codebook.

Example: conditions with the scales 2 and 3 and the threshold 1.2 have the radii 2.4 and 3.6. A
third condition may lower the threshold, and thereby all radii, because the allowed share of false
activations is that of all conditions together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bem.errors import InvalidRequestError, InvalidSettingError
from bem.online.conformal import coverage_distance, leave_one_out_distances, locality_threshold

MIN_SCALE = 0.1
"""Smallest scale of a condition; a component of the whitened space has unit variance."""
MAX_CONDITIONS = 1024


@dataclass(frozen=True)
class Whitening:
    """Map from pooled prompt states to keys.

    Attributes:
        mean: ``[D]`` mean state of the prompts that it was fitted on.
        axes: ``[D, K]`` components, scaled to unit variance.
    """

    mean: Tensor
    axes: Tensor

    def keys(self, states: Tensor) -> Tensor:
        """Return keys ``[..., K]`` of pooled states ``[..., D]``, float32."""
        return (states.float() - self.mean) @ self.axes


@dataclass(frozen=True)
class CodebookSettings:
    """Settings of the radii.

    Attributes:
        error: Largest share of unrelated prompts that may meet any condition, in (0, 1).
        miss: Share of a condition's own prompts that may lie beyond its scale, in (0, 1).
        reach: Largest radius in scales; a ball far from all unrelated prompts ends there.

    Raises:
        InvalidSettingError: A setting is out of its range.
    """

    error: float = 0.01
    miss: float = 0.05
    reach: float = 1.5

    def __post_init__(self) -> None:
        if not 0 < self.error < 1 or not 0 < self.miss < 1 or not self.reach > 0:
            raise InvalidSettingError(
                "codebook: error and miss lie in (0, 1), and reach is above 0; got "
                f"{self.error}, {self.miss}, {self.reach}"
            )


@dataclass(frozen=True, eq=False)
class Condition:
    """One condition with the code that applies where it is met.

    Attributes:
        name: Unique name.
        key: ``[K]`` center in the whitened space.
        scale: Distance that covers the condition's own prompts.
        code: ``[P]`` float32 code.
        events: Number of feedback events that taught the code.
        users: Number of users that sent them.
        radius: Distance below which a prompt meets the condition; set by the codebook.
    """

    name: str
    key: Tensor
    scale: float
    code: Tensor
    events: int = 0
    users: int = 0
    radius: float = 0.0


class Codebook:
    """Conditions with radii that are calibrated together; it is never changed in place.

    Args:
        whitening: Map from pooled states to keys.
        unrelated: ``[N, K]`` keys of unrelated calibration prompts.
        conditions: Conditions with distinct names; their radii are computed here.
        settings: Settings of the radii.

    Raises:
        InvalidSettingError: Names repeat, there are too many conditions, or shapes do not fit.
    """

    def __init__(
        self,
        whitening: Whitening,
        unrelated: Tensor,
        conditions: Sequence[Condition] = (),
        settings: CodebookSettings | None = None,
    ) -> None:
        width = whitening.axes.shape[1]
        if len({one.name for one in conditions}) < len(conditions):
            raise InvalidSettingError("conditions: a name occurs twice; names are unique")
        if len(conditions) > MAX_CONDITIONS:
            raise InvalidSettingError(
                f"conditions: there are {len(conditions)}; {MAX_CONDITIONS} is the most"
            )
        if unrelated.dim() != 2 or unrelated.shape[1] != width:
            raise InvalidSettingError(
                f"unrelated: keys have the shape {tuple(unrelated.shape)}; [N, {width}] is needed"
            )
        self.whitening, self.unrelated = whitening, unrelated.float()
        self.settings = settings or CodebookSettings()
        self.threshold = self._threshold(conditions)
        self.conditions = tuple(
            replace(one, radius=self.threshold * one.scale) for one in conditions
        )

    def __getitem__(self, name: str) -> Condition:
        """Return a condition by its name.

        Raises:
            InvalidRequestError: There is no such condition.
        """
        for one in self.conditions:
            if one.name == name:
                return one
        raise InvalidRequestError("condition", f"{name!r} is unknown; the codebook has no such one")

    def __contains__(self, name: object) -> bool:
        return any(one.name == name for one in self.conditions)

    def match(self, state: Tensor) -> Condition | None:
        """Return the condition that a prompt meets, the relatively nearest of several, or None.

        Args:
            state: ``[D]`` pooled state of the prompt at the feature layer. A state with a number
                that is not finite meets no condition.
        """
        if not self.conditions:
            return None
        scores = self._scores(self.whitening.keys(state)[None], self.conditions)[0]
        best = int(scores.argmin())
        # A NaN is below nothing.
        return self.conditions[best] if float(scores[best]) < self.threshold else None

    def nearest(self, state: Tensor) -> float:
        """Return the distance of a prompt from the relatively nearest condition, in its scales.

        Args:
            state: ``[D]`` pooled state of the prompt at the feature layer.

        Raises:
            InvalidSettingError: There is no condition.
        """
        if not self.conditions:
            raise InvalidSettingError("conditions: there is none; ask a codebook that has one")
        return float(self._scores(self.whitening.keys(state)[None], self.conditions)[0].min())

    def with_condition(self, condition: Condition) -> "Codebook":
        """Return a codebook with one condition more, or with its namesake replaced."""
        kept = [one for one in self.conditions if one.name != condition.name]
        return self._with([*kept, condition])

    def with_code(self, name: str, code: Tensor, *, events: int, users: int) -> "Codebook":
        """Return a codebook in which a condition has another code; radii stay as they are.

        Args:
            name: Name of the condition.
            code: ``[P]`` code.
            events: Number of feedback events behind the code.
            users: Number of users behind the code.

        Raises:
            InvalidRequestError: There is no such condition.
        """
        changed = replace(self[name], code=code.detach().float(), events=events, users=users)
        return self._with([changed if one.name == name else one for one in self.conditions])

    def without(self, name: str) -> "Codebook":
        """Return a codebook without a condition.

        Raises:
            InvalidRequestError: There is no such condition.
        """
        dropped = self[name]
        return self._with([one for one in self.conditions if one is not dropped])

    def _with(self, conditions: Sequence[Condition]) -> "Codebook":
        return Codebook(self.whitening, self.unrelated, conditions, self.settings)

    def _threshold(self, conditions: Sequence[Condition]) -> float:
        if not conditions:
            return 0.0
        nearest = self._scores(self.unrelated, conditions).min(1).values
        return min(self.settings.reach, locality_threshold(nearest, self.settings.error))

    @staticmethod
    def _scores(keys: Tensor, conditions: Sequence[Condition]) -> Tensor:
        """Return distances in scales, ``[N, conditions]`` of keys ``[N, K]``."""
        centers = torch.stack([one.key.float() for one in conditions])
        scales = torch.tensor([one.scale for one in conditions])
        # The squares themselves: the expansion into products loses what small distances consist of.
        return torch.linalg.vector_norm(keys[:, None] - centers, dim=-1) / scales


def make_condition(
    name: str, keys: Tensor, code: Tensor, settings: CodebookSettings | None = None
) -> Condition:
    """Return a condition around the keys of its first prompts.

    Args:
        name: Unique name.
        keys: ``[n, K]`` keys of prompts with feedback, n at least 1.
        code: ``[P]`` first code.
        settings: Settings of the radii.

    Raises:
        InvalidSettingError: There is no key.
    """
    settings = settings or CodebookSettings()
    scale = coverage_distance(leave_one_out_distances(keys.float()), settings.miss)
    # Artifacts store scales in float32.
    scale = float(torch.tensor(max(scale, MIN_SCALE)))
    return Condition(name, keys.float().mean(0), scale, code.detach().float())

"""Arms of the character study: SEP, its ablations, and the baselines at equal characters processed.

A step has the same number of rows in every arm: an arm with two views reads half as many texts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from bem.errors import InvalidSettingError

KEYS = ("none", "fresh", "pool")


@dataclass(frozen=True)
class Arm:
    """Training objective and views of an arm.

    Attributes:
        keys: Ciphers of the second view: ``none`` for one view, ``fresh`` keys for each row, or
            keys of a fixed ``pool``.
        pool: Number of keys in the pool.
        random_embeddings: Share of the rows with random embeddings, in [0, 1].
        dropout: Share of the input characters that are hidden, in [0, 1].
        kl: Weight of the divergence from the clean view, by position.
        invariance: Weight of the squared difference of the views' codes.
        variance: Weight of VICReg's variance term of both views.
        covariance: Weight of VICReg's covariance term of both views.
        adversary: Weight of the cipher adversary's loss; its reversed gradient is in the model.

    Raises:
        InvalidSettingError: A value is out of its range, or a loss of two views has only one.
    """

    keys: str = "none"
    pool: int = 16
    random_embeddings: float = 0.0
    dropout: float = 0.0
    kl: float = 0.0
    invariance: float = 0.0
    variance: float = 0.0
    covariance: float = 0.0
    adversary: float = 0.0

    def __post_init__(self) -> None:
        shares, weights = (self.random_embeddings, self.dropout), self._pair_weights()
        if self.keys not in KEYS or self.pool < 1:
            raise InvalidSettingError(
                f"keys: {self.keys!r} with a pool of {self.pool}; one of {', '.join(KEYS)}, and a "
                "pool of at least 1"
            )
        if not all(0 <= share <= 1 for share in shares) or min(weights) < 0:
            raise InvalidSettingError(
                f"arm: shares lie in [0, 1] and weights are at least 0; got {self}"
            )
        if self.views == 1 and any(weights):
            raise InvalidSettingError("arm: losses between views need keys; set keys to 'fresh'")

    @property
    def views(self) -> int:
        """Number of views of a text: 1, or 2 with keys."""
        return 1 if self.keys == "none" else 2

    def _pair_weights(self) -> tuple[float, ...]:
        return self.kl, self.invariance, self.variance, self.covariance, self.adversary


_KL = Arm(keys="fresh", random_embeddings=0.5, kl=1.0)
_SEP = replace(_KL, invariance=5.0, variance=5.0, covariance=0.2)
ARMS: Mapping[str, Arm] = MappingProxyType({
    "lm": Arm(),
    "augmentation": Arm(keys="fresh"),
    "augmentation-pool": Arm(keys="pool"),
    "character-dropout": Arm(dropout=0.1),
    "lexinvariant": Arm(random_embeddings=1.0),
    "sep": _SEP,
    "sep-kl": _KL,
    "sep-matching": replace(_SEP, kl=0.0),
    "sep-pool": replace(_SEP, keys="pool"),
    "sep-adversary": replace(_SEP, adversary=0.1),
})  # fmt: skip
"""Arms by name; ``sep-*`` are ablations."""

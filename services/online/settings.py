"""Settings of the online mission."""

from pathlib import Path

from bem_fleet.feedback.limits import IntakeLimits, Quorum
from bem_fleet.serving import EngineSettings
from pydantic import Field


class OnlineSettings(EngineSettings, env_prefix="BEM_ONLINE_"):
    """Read from ``BEM_ONLINE_*``."""

    address: str = "unix:.run/online.sock"
    """Unix socket, which only the sidecar can reach."""

    rank: int = Field(32, ge=1, le=256)
    """Highest rank of an adapter; that of the bank is needed."""

    bank: Path = Path("adapters/online")
    """Folder of the bank; without ``bank.json`` nothing is learned, and Status says so."""

    code_folder: Path = Path(".run/online")
    """Folder in which codes are kept as adapters while they are served; it may be lost."""

    learns: bool = True
    """Whether this process may learn; of several that may, one does at a time."""

    feedback_key_file: Path | None = None
    """File with the secret of pseudonyms, the gateway's; unset: a random one, with which Forget
    needs pseudonyms and Feedback makes others than the gateway."""

    safety_address: str = ""
    """Address of a sidecar that removes personal data from what Feedback brings; empty: Feedback is
    refused, and the gateway's route is the way."""

    quorum_events: int = Field(8, ge=1)
    """Fewest events of a family before anything is learned from it."""

    quorum_users: int = Field(5, ge=1)
    """Fewest trusted users behind them."""

    users_per_source: int = Field(1, ge=1)
    """Users of one API key that count; above 1 only where keys belong to trusted applications."""

    update_events: int = Field(8, ge=1)
    """New events of a family after which its code is learned again."""

    batch_events: int = Field(32, ge=2, le=512)
    """Most events of one update."""

    steps: int = Field(6, ge=1, le=100)
    """Most natural-gradient steps of one update."""

    hint: float = Field(0.0, ge=0)
    """Weight of hint distillation, in which the model that reads a correction teaches the one that
    does not; 0 turns it off. It doubles the time of an update."""

    seed: int = Field(0, ge=0)
    """Seed of the learner; the same stream and seed give the same codes."""

    poll_s: float = Field(2.0, gt=0)
    """Time between two looks for new feedback and versions, in seconds."""

    alpha: float = Field(0.1, gt=0, lt=1)
    """Probability with which a version that helps nobody passes the test of its feedback, over all
    attempts of a condition until one passes."""

    max_divergence: float = Field(0.05, gt=0)
    """Largest mean divergence of a version from the live one on the basic and on the performance
    prompts of the canary suite, nats a token."""

    least_radius: float = Field(0.75, gt=0)
    """Smallest radius of conditions that still find paraphrases, in scales; a version whose radii
    must be smaller, so that no safety prompt meets a condition, is rejected."""

    suite_prompts: int = Field(64, ge=1, le=400)
    """Prompts of each part of the canary suite."""

    watch_answers: int = Field(2000, ge=1)
    """Answers of a promoted version during which a drift of their likelihood takes it back."""

    @property
    def quorum(self) -> Quorum:
        """What a family needs before anything is learned from it."""
        return Quorum(self.quorum_events, self.quorum_users, self.users_per_source)

    @property
    def feedback_limits(self) -> IntakeLimits:
        """Limits at which Feedback is refused: those of the gateway."""
        return IntakeLimits()

"""Composition of the sidecar."""

from pathlib import Path

from bem_fleet.services.safety.build import make_scorers
from bem_fleet.services.safety.scorer_client import ScorerClient
from bem_fleet.services.safety.scorer_process import ScorerProcess
from bem_fleet.services.safety.settings import SafetySettings


def test_socket_selects_the_shared_scorer() -> None:
    """With a socket both tiers are clients of the server, without one child processes."""
    shared = make_scorers(SafetySettings(scorer_socket=Path("scorer.sock")))
    own = make_scorers(SafetySettings())

    assert [type(scorer) for scorer in shared] == [ScorerClient] * 2
    assert [type(scorer) for scorer in own] == [ScorerProcess] * 2

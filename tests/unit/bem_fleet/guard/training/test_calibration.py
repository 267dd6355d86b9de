"""Calibration on benign texts, with the served heads and a model that embeds by words."""

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast
from zlib import crc32

import numpy as np
import pytest
from bem_fleet.checkout import ROOT
from bem_fleet.guard.findings import ScoringQuery
from bem_fleet.guard.offline import OfflineGuard
from bem_fleet.guard.policy import ABUSE, DEFAULT_POLICY, load_policy
from bem_fleet.guard.scoring.heads import (
    CARD,
    PERCEPTRONS,
    REQUEST_HEADS,
    WEIGHTS,
    Perceptron,
    save_heads,
)
from bem_fleet.guard.scoring.tiers import DeepTier
from bem_fleet.guard.training.calibration import (
    REREAD_SHARE,
    calibrate,
    reread_screen,
    select_split,
)
from bem_fleet.guard.training.corpus import BENIGN, Sample
from bem_fleet.guard.training.embedding_cache import Caches, EmbeddingCache
from bem_fleet.guard.training.family_rates import threshold_by_family
from bem_fleet.guard.training.served_scores import request_queries
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file

SERVED = ROOT / "adapters/guard"
WORDS = ("sea", "harbour", "boat", "wind", "calm", "today", "cold", "green", "old", "slow")


class WordModel:
    """Embeds a text as a random unit vector that depends on the text."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return unit vectors [n, 384]."""
        rows = [np.random.default_rng(crc32(text.encode())).normal(size=384) for text in texts]
        return np.array([row / np.linalg.norm(row) for row in rows], dtype=np.float32)


def sample(number: int, *, is_response: bool) -> Sample:
    """Return a benign dev text: of ten families half are written; each text has 60 words."""
    rng = np.random.default_rng(number)
    text = " ".join(rng.choice(WORDS, size=60)) + "."
    family = f"{('dev_x', 'packaged')[number % 2]}/{number % 10}"
    return Sample(text, BENIGN, family, "dev", (text,), is_response)


def perceptron(seed: int, outputs: int) -> Perceptron:
    """Return a head whose log-odds of random vectors are a few units."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(8, 384)), 0.5 * rng.normal(size=(outputs, 8))
    hidden, output = (weight.astype(np.float32) for weight in weights)
    return Perceptron((hidden, np.zeros(8, np.float32)), (output, np.zeros(outputs, np.float32)))


def log_odds(probability: float) -> float:
    """Return the log-odds of a probability."""
    return math.log(probability / (1 - probability))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return heads with the served words, and with thresholds that nothing reaches."""
    copied = Path(shutil.copytree(SERVED, tmp_path / "guard"))
    words = load_file(SERVED / WEIGHTS)
    card = json.loads((copied / CARD).read_text())
    card["thresholds"] = dict.fromkeys(card["thresholds"], 1.0)
    heads = {name: perceptron(seed, n) for seed, (name, n) in enumerate(PERCEPTRONS.items())}
    save_heads(copied, (words["words.weight"], words["words.bias"]), heads, card)
    return copied


def test_calibrated_thresholds_hold_for_what_is_served(folder: Path, tmp_path: Path) -> None:
    """Whole texts, all windows, both models: the guard withholds none of so few texts."""
    requests = [sample(number, is_response=False) for number in range(30)]
    replies = [sample(number, is_response=True) for number in range(30, 60)]
    ignored = [replace(sample(99, is_response=False), split="train", text="kill " * 60)]
    caches = Caches(*(EmbeddingCache(tmp_path / f"{n}.npz", WordModel) for n in "ab"))
    card = calibrate(folder, caches, [*requests, *ignored], replies)
    guard = OfflineGuard(folder, load_policy(DEFAULT_POLICY), WordModel(), WordModel())

    assert card == json.loads((folder / CARD).read_text())
    assert all(0.5 < card["thresholds"][name] < 0.9999 for name in (*REQUEST_HEADS, ABUSE))
    assert len({card["thresholds"][name] for name in REQUEST_HEADS}) <= 2
    assert 0 <= card["abuse_screen"] <= 1
    assert max(map(abs, card["foreign_shifts"].values())) < 100
    assert card["reread_screens"].keys() == {"requests", "responses"}
    assert card["reread_screens"]["responses"] <= log_odds(card["thresholds"][ABUSE])
    assert all(outcome.text for outcome in guard.filter_requests([one.text for one in requests]))
    assert all(guard.filter_response(one.text).text for one in replies)
    # All windows were embedded and stored, those behind the first two among them.
    assert (tmp_path / "a.npz").exists()
    assert len(np.load(tmp_path / "a.npz")["keys"]) > 2 * len(requests)


class FirstReader:
    """Deep tier whose faster model has known log-odds of a text."""

    def highest_first_odds(self, queries: Sequence[ScoringQuery]) -> NDArray[np.float32]:
        """Return the number that each text is."""
        return np.array([float(query.text) for query in queries], dtype=np.float32)


def test_a_tenth_of_the_harmless_texts_is_read_again() -> None:
    """Attacks have no say, so heads that know the attacks of their training cannot raise it."""
    queries = request_queries([str(number / 100) for number in range(-300, 300)])
    deep = cast("DeepTier", FirstReader())
    screen = reread_screen(deep, queries, ["one"] * len(queries), 0.99)
    strict = reread_screen(deep, queries, ["one"] * len(queries), 0.75)

    read_again = (deep.highest_first_odds(queries) >= screen).mean()
    assert read_again == pytest.approx(REREAD_SHARE, abs=0.002)
    # The faster model alone withholds nothing: no screen above the threshold.
    assert strict == pytest.approx(log_odds(0.75), abs=1e-4)


def test_each_guard_has_the_thresholds_of_its_own_card(folder: Path) -> None:
    """Heads of another seed are not judged with the thresholds of the policy file."""
    policy = load_policy(DEFAULT_POLICY)
    own = OfflineGuard(folder, policy, WordModel(), WordModel()).policy
    card = json.loads((folder / CARD).read_text())["thresholds"]

    assert {rule.scorer for rule in own.rules if rule.threshold == 1.0} == card.keys()
    assert {rule.threshold for rule in policy.rules if rule.scorer in card} != {1.0}


@given(st.lists(st.floats(0, 1, width=32), min_size=5, max_size=60), st.floats(0, 0.5))
def test_false_positive_rate_is_kept(scores: list[float], share: float) -> None:
    """At most the allowed share of the texts reaches the threshold."""
    read = np.array(scores, dtype=np.float32)
    limit = threshold_by_family(read, ["a"] * len(read), share)

    assert 0.5 <= limit <= 0.9999
    if limit < np.float32(0.9999):
        assert (read >= limit).sum() <= share * len(read) + 1e-6


def test_windows_of_a_split_keep_label_and_owner() -> None:
    """Samples of other splits are left out; a window is owned by its sample."""
    samples = [
        Sample("a b", "harm", "f", "train", ("a", "b")),
        Sample("c", BENIGN, "f", "dev", ("c",)),
        Sample("d", BENIGN, "g", "train", ("d",)),
    ]
    split = select_split(samples, "train")

    assert split.windows == ["a", "b", "d"]
    assert split.labels.tolist() == ["harm", "harm", BENIGN]
    assert split.owners.tolist() == [0, 0, 2]

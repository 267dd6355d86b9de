"""Training of the heads on small synthetic data."""

import numpy as np
from bem_fleet.guard.scoring.windows import RESPONSE_WINDOW_WORDS
from bem_fleet.guard.training.calibration import WindowSplit
from bem_fleet.guard.training.corpus import BENIGN
from bem_fleet.guard.training.head_training import (
    assign_splits,
    build_vectorizer,
    fit_head,
    insert_toxic_comments,
)


def test_head_separates_its_label_from_benign_windows() -> None:
    """Windows of other labels are left out."""
    windows = ["red car", "red bus", "blue car", "blue bus", "green tree"]
    labels = np.array(["harm", "harm", BENIGN, BENIGN, "bias"])
    features = build_vectorizer().transform(windows)
    model = fit_head(features, labels, "harm", 10.0)

    assert model.predict(features[:4]).tolist() == [True, True, False, False]


def test_toxic_comments_are_inserted_into_benign_windows() -> None:
    """Every inserted window contains the comment and is not longer than a window."""
    split = WindowSplit(
        ["you total idiot", "the boats lay still in the pale light today"],
        np.array(["toxicity", BENIGN]),
        np.array([0, 1]),
    )
    windows, labels = insert_toxic_comments(split, 0)

    assert windows
    assert all("you total idiot" in window for window in windows)
    assert max(len(window.split()) for window in windows) <= RESPONSE_WINDOW_WORDS
    assert set(labels) == {"toxicity"}


def test_splits_have_their_shares() -> None:
    """Half is train, a quarter dev, a quarter held out."""
    splits = assign_splits(4000, 0)

    assert abs((splits == "train").mean() - 0.5) < 0.03
    assert abs((splits == "held_out").mean() - 0.25) < 0.03

"""Training of perceptrons over embeddings."""

import numpy as np
from bem_fleet.guard.training.perceptron_training import fit_perceptron


def test_perceptron_separates_classes_that_no_line_does() -> None:
    """Four clusters at the corners of a square, opposite corners of one class."""
    rng = np.random.default_rng(0)
    corners = np.array([[1, 1], [-1, -1], [1, -1], [-1, 1]], dtype=np.float32)
    points = np.repeat(corners, 100, axis=0) + 0.2 * rng.standard_normal((400, 2))
    classes = np.repeat([0, 0, 1, 1], 100)
    head = fit_perceptron(points.astype(np.float32) + 3, classes, 0)
    logits = head.logits(points.astype(np.float32) + 3)

    assert logits.shape == (400, 1)
    assert ((logits[:, 0] > 0) == (classes == 1)).mean() > 0.97


def test_rare_class_is_learnt_and_the_seed_decides() -> None:
    """Three classes have three logits; the same seed gives the same weights."""
    rng = np.random.default_rng(1)
    centres = np.eye(3, dtype=np.float32) * 2
    classes = np.repeat([0, 1, 2], [300, 300, 12])
    points = (centres[classes] + 0.3 * rng.standard_normal((612, 3))).astype(np.float32)
    first, second = (fit_perceptron(points, classes, 5) for _ in range(2))
    logits = first.logits(points)

    assert logits.shape == (612, 3)
    assert (logits.argmax(axis=1) == classes)[classes == 2].mean() > 0.9
    assert np.array_equal(first.hidden[0], second.hidden[0])

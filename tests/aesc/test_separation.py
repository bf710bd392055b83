"""AUROC of images against their corruptions, and the error of differences of it."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from aesc.errors import AescError
from aesc.separation import error_of_difference, separation


def scores(rng: np.random.Generator, count: int, shift: float) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Clean and corrupted scores of the same images: what an image is like counts in both."""
    own = rng.normal(size=count)
    return own + rng.normal(size=count), {kind: own + shift + rng.normal(size=count) for kind in ("drops", "scratch")}


def test_auroc_is_scikit_learn_s_with_ties_too() -> None:
    rng = np.random.default_rng(0)
    clean = rng.integers(0, 5, 40).astype(float)
    corrupted = {"drops": rng.integers(2, 8, 40).astype(float)}
    expected = roc_auc_score([0] * 40 + [1] * 40, np.concatenate([clean, corrupted["drops"]]))
    found = separation(clean, corrupted)
    assert found.auroc == {"drops": pytest.approx(expected, abs=1e-12)}
    assert found.influence.sum() == pytest.approx(0.0, abs=1e-9)


def test_the_error_is_the_spread_of_repeated_experiments() -> None:
    rng = np.random.default_rng(1)
    differences, errors = [], []
    for _ in range(400):
        clean, corrupted = scores(rng, 60, 1.0)
        noisy = {kind: values + rng.normal(size=60) for kind, values in corrupted.items()}
        one, other = separation(clean, corrupted), separation(clean + rng.normal(size=60), noisy)
        differences.append(np.mean(list(one.auroc.values())) - np.mean(list(other.auroc.values())))
        errors.append(error_of_difference(one, other))
    assert np.mean(errors) == pytest.approx(np.std(differences), rel=0.12)


def test_the_same_scores_differ_by_nothing() -> None:
    found = separation(*scores(np.random.default_rng(2), 10, 0.5))
    assert error_of_difference(found, found) == 0.0
    assert set(found.auroc) == {"drops", "scratch"}


def test_one_image_tells_nothing_certain() -> None:
    one = separation([1.0], {"drops": [2.0]})
    assert error_of_difference(one, separation([2.0], {"drops": [1.0]})) == np.inf


@pytest.mark.parametrize(
    ("clean", "corrupted"), [([], []), ([1.0, 2.0], [3.0]), ([1.0, 2.0], [3.0, np.nan]), ([np.inf, 1.0], [1.0, 2.0])]
)
def test_scores_that_are_missing_or_not_finite_are_refused(clean: list[float], corrupted: list[float]) -> None:
    with pytest.raises(AescError, match="one finite score for every image"):
        separation(clean, {"drops": corrupted})

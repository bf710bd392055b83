from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

from aesc.bootstrap import bin_edges, bin_images, binned_metrics, bootstrap_pixel_metrics
from aesc.counting import split
from aesc.errors import AescError
from aesc.pixel_metrics import pixel_metrics, pool_pixels, pro_curve, split_images

Maps = NDArray[np.float32]
Masks = NDArray[np.bool_]


def small_case(seed: int, *, levels: int | None) -> tuple[Maps, Masks]:
    """Noise with two or three defects in some images; `levels` rounds the scores so that most are tied."""
    rng = np.random.Generator(np.random.PCG64(seed))
    maps = rng.normal(size=(5, 12, 10))
    masks = np.zeros(maps.shape, dtype=bool)
    for index in range(3):
        for _ in range(rng.integers(1, 4)):
            y, x = rng.integers(0, 9), rng.integers(0, 8)
            masks[index, y : y + rng.integers(1, 4), x : x + rng.integers(1, 3)] = True
    maps[masks] += rng.choice([0.0, 1.0, 3.0])
    if levels is not None:
        maps = np.rint(maps * levels / 6.0)
    return maps.astype(np.float32), masks


def defect_maps(seed: int, *, images: int, side: int) -> tuple[Maps, Masks]:
    """Smooth noise with a disc, brighter by a varying amount, in two images of three."""
    rng = np.random.Generator(np.random.PCG64(seed))
    grid = np.mgrid[:side, :side]
    maps = ndimage.gaussian_filter(rng.normal(size=(images, side, side)).astype(np.float32), (0, 2, 2)) * 4
    masks = np.zeros(maps.shape, dtype=bool)
    for index in range(images):
        if index % 3:
            centre, radius = rng.uniform(0.2, 0.8, 2) * side, rng.uniform(0.02, 0.12) * side
            masks[index] = ((grid - centre[:, None, None]) ** 2).sum(0) < radius**2
            maps[index] += masks[index] * np.float32(rng.uniform(0.5, 3.0))
    return maps, masks


def plain_pro_points(maps: Maps, masks: Masks) -> list[tuple[float, float]]:
    """False positive rate and mean overlap at every distinct score, straight from the definition."""
    regions = []
    for scores, mask in zip(maps, masks, strict=True):
        labelled, count = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [scores[labelled == number] for number in range(1, count + 1)]
    normal = maps[~masks]
    points = [(0.0, 0.0)]
    for threshold in sorted(set(maps.ravel().tolist()), reverse=True):
        rate = float(np.mean(normal >= threshold))
        points.append((rate, float(np.mean([np.mean(region >= threshold) for region in regions]))))
    return points


def plain_area(points: list[tuple[float, float]], limit: float) -> float:
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 >= limit:
            break
        end = min(x1, limit)
        at_end = y1 if end == x1 else y0 + (y1 - y0) * (end - x0) / (x1 - x0)
        area += (end - x0) * (y0 + at_end) / 2
    return area / limit


@pytest.mark.parametrize("levels", [None, 12, 4, 1])
@pytest.mark.parametrize("seed", range(6))
def test_all_three_agree_with_plain_references(seed: int, levels: int | None) -> None:
    maps, masks = small_case(seed, levels=levels)
    points = plain_pro_points(maps, masks)
    for limit in (0.05, 0.3, 1.0):
        found = pixel_metrics(maps, masks, limit=limit)
        assert found.aupro == pytest.approx(plain_area(points, limit), abs=1e-9)
    assert found.auroc == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()), abs=1e-9)
    assert found.average_precision == pytest.approx(average_precision_score(masks.ravel(), maps.ravel()), abs=1e-9)


def test_constant_maps_are_chance() -> None:
    masks = np.zeros((2, 8, 8), dtype=bool)
    masks[0, :2, :2] = True
    found = pixel_metrics(np.ones((2, 8, 8), dtype=np.float32), masks)
    assert found.auroc == 0.5
    assert found.average_precision == pytest.approx(4 / 128)
    assert found.aupro == pytest.approx(0.15)  # the diagonal up to 0.3


def test_perfect_maps_reach_one() -> None:
    maps, masks = small_case(0, levels=None)
    found = pixel_metrics(masks.astype(np.float32) * 10 + maps.clip(-2, 2), masks)
    assert (found.auroc, found.average_precision, found.aupro) == pytest.approx((1.0, 1.0, 1.0), abs=1e-12)


def test_regions_weigh_the_same_and_touch_at_corners() -> None:
    masks = np.zeros((1, 10, 10), dtype=bool)
    masks[0, 0, 0] = masks[0, 1, 1] = True  # one region: corners connect
    masks[0, 5:9, 5:9] = True
    maps = np.zeros(masks.shape, dtype=np.float32)
    maps[0, :2, :2] = masks[0, :2, :2]
    found = pixel_metrics(maps, masks)
    assert found.n_regions == 2
    # The small region is found before any false alarm, the large one rises with the rate: 0.5 to 0.65 at 0.3.
    assert found.aupro == pytest.approx(0.575)


def test_a_defective_image_without_a_mask_is_left_out_as_a_whole() -> None:
    maps, masks = small_case(1, levels=None)
    given = [masks[0], None, masks[2], None, None]
    maps[1] = 100.0  # would ruin every metric
    found = pixel_metrics(maps, given, labels=[1, 1, 1, 0, 0])
    kept = [0, 2, 3, 4]
    expected = pixel_metrics(maps[kept], masks[kept])
    assert (found.auroc, found.average_precision, found.aupro) == (
        expected.auroc,
        expected.average_precision,
        expected.aupro,
    )
    assert (found.n_images, found.n_masked, found.n_left_out) == (4, 2, 1)
    assert found.n_normal_pixels + found.n_defect_pixels == 4 * 120


def test_a_defective_image_with_an_empty_mask_is_left_out() -> None:
    maps, masks = small_case(2, levels=None)
    found = pixel_metrics(maps, masks, labels=[1, 1, 1, 1, 0])
    assert (found.n_images, found.n_left_out) == (4, 1)


def test_without_defect_pixels_nothing_is_available() -> None:
    maps, masks = small_case(3, levels=None)
    for found in (
        pixel_metrics(maps, np.zeros_like(masks)),
        pixel_metrics(maps, None, labels=[1, 1, 1, 0, 0]),
        pixel_metrics(maps, np.ones_like(masks)),
        pixel_metrics([], []),
    ):
        assert (found.auroc, found.average_precision, found.aupro) == (None, None, None)
    assert pro_curve(maps, None, labels=[0] * 5) is None


def test_maps_may_come_one_by_one_in_any_size_and_float_type() -> None:
    maps, masks = small_case(4, levels=None)
    streamed = pixel_metrics((m for m in maps.astype(np.float64)), (m for m in masks.astype(np.uint8) * 255))
    assert streamed == pixel_metrics(maps, masks)
    mixed = pixel_metrics([maps[0], maps[1][:6]], [masks[0], masks[1][:6]])
    assert mixed.n_normal_pixels + mixed.n_defect_pixels == 180


def test_bad_input_is_named() -> None:
    maps, masks = small_case(5, levels=None)
    with pytest.raises(AescError, match="neither a mask nor a label"):
        pixel_metrics(maps, [None] * 5)
    with pytest.raises(AescError, match="not as many as masks"):
        pixel_metrics(maps, masks[:3])
    with pytest.raises(AescError, match="5 maps and 4 labels"):
        pixel_metrics(maps, masks, labels=[1, 1, 1, 0])
    with pytest.raises(AescError, match="anomaly map 0"):
        pixel_metrics(maps, masks, labels=[0, 1, 1, 0, 0])
    with pytest.raises(AescError, match="mask of"):
        pixel_metrics(maps, masks[:, :5])
    with pytest.raises(AescError, match="limit"):
        pixel_metrics(maps, masks, limit=0.0)
    maps[2, 0, 0] = np.nan
    with pytest.raises(AescError, match="anomaly map 2"):
        pixel_metrics(maps, masks)


@pytest.mark.parametrize("levels", [None, 4])
def test_pro_curve_is_the_exact_one_up_to_the_limit(levels: int | None) -> None:
    maps, masks = small_case(6, levels=levels)
    curve = pro_curve(maps, masks, 0.3)
    assert curve is not None
    rate, overlap = curve
    assert (rate[0], overlap[0], rate[-1]) == (0.0, 0.0, 0.3)
    assert np.trapezoid(overlap, rate) / 0.3 == pytest.approx(plain_area(plain_pro_points(maps, masks), 0.3), abs=1e-9)


def test_pro_curve_is_thinned_without_losing_its_area() -> None:
    maps, masks = defect_maps(0, images=12, side=96)
    curve = pro_curve(maps, masks)
    assert curve is not None
    rate, overlap = curve
    assert rate.size <= 2000
    assert (np.diff(rate) >= 0).all()
    assert (np.diff(overlap) >= 0).all()
    assert np.trapezoid(overlap, rate) / 0.3 == pytest.approx(pixel_metrics(maps, masks).aupro, abs=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_binned_metrics_are_close_to_the_exact_ones(seed: int) -> None:
    maps, masks = defect_maps(seed, images=15, side=96)
    images = [image for image in split_images(maps, masks) if image is not None]
    edges = bin_edges(pool_pixels(images), bins=2048)
    assert edges.size <= 2048
    normal, defect, overlap = bin_images(images, edges)
    assert normal.sum() == (~masks).sum()
    assert defect.sum() == masks.sum()
    binned = binned_metrics(normal.sum(0), defect.sum(0), overlap.sum(0), limit=0.3)
    exact = pixel_metrics(maps, masks)
    assert 0.3 < (exact.average_precision or 0.0) < 0.9  # where binning could err
    for name, value in binned.items():
        assert float(value) == pytest.approx(getattr(exact, name), abs=2e-3), name


@pytest.mark.parametrize("levels", [None, 4000])
def test_large_pools_are_counted_and_sorted_in_parts_as_a_whole_is(
    monkeypatch: pytest.MonkeyPatch, levels: int | None
) -> None:
    maps, masks = defect_maps(4, images=40, side=128)
    if levels is not None:
        maps = np.rint(maps * levels / 6.0)
    pool = pool_pixels(split_images(maps, masks, ascending=False))
    assert len(split(pool.normal)) > 1
    found = pixel_metrics(maps, masks)
    assert found.auroc == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()), abs=1e-12)
    assert found.average_precision == pytest.approx(average_precision_score(masks.ravel(), maps.ravel()), abs=1e-12)

    monkeypatch.setattr("aesc.counting._PARTS", 1)
    assert pixel_metrics(maps, masks) == found
    np.testing.assert_array_equal(pool.ascending(), np.sort(maps[~masks]))


def test_few_distinct_scores_are_binned_exactly() -> None:
    maps, masks = small_case(7, levels=12)
    images = [image for image in split_images(maps, masks) if image is not None]
    binned = binned_metrics(
        *(part.sum(0) for part in bin_images(images, bin_edges(pool_pixels(images), bins=2048))), limit=0.3
    )
    exact = pixel_metrics(maps, masks)
    for name, value in binned.items():
        assert float(value) == pytest.approx(getattr(exact, name), abs=1e-12), name


def test_a_resample_equals_the_metrics_of_the_images_drawn() -> None:
    maps, masks = small_case(8, levels=12)
    images = [image for image in split_images(maps, masks) if image is not None]
    parts = bin_images(images, bin_edges(pool_pixels(images), bins=2048))
    drawn = [0, 0, 2, 3, 3]
    weights = np.bincount(drawn, minlength=5).astype(float)
    found = binned_metrics(*(weights @ part for part in parts), limit=0.3)
    exact = pixel_metrics(maps[drawn], masks[drawn])
    for name, value in found.items():
        assert float(value) == pytest.approx(getattr(exact, name), abs=1e-12), name


def test_pixel_intervals_hold_the_value_widen_with_confidence_and_repeat_with_the_seed() -> None:
    maps, masks = defect_maps(3, images=12, side=48)
    exact = pixel_metrics(maps, masks)
    narrow = bootstrap_pixel_metrics(maps, masks, n=300, confidence=0.5, seed=1)
    wide = bootstrap_pixel_metrics(maps, masks, n=300, confidence=0.95, seed=1)
    assert (wide.n_good, wide.n_defective, wide.n, wide.seed) == (4, 8, 300, 1)
    for name in ("auroc", "average_precision", "aupro"):
        low, high = wide.bounds[name]
        assert 0.0 <= low < getattr(exact, name) < high <= 1.0
        assert low < narrow.bounds[name][0] < narrow.bounds[name][1] < high
    assert bootstrap_pixel_metrics(maps, masks, n=300, confidence=0.95, seed=1) == wide
    assert bootstrap_pixel_metrics(maps, masks, n=300, confidence=0.95, seed=2).bounds != wide.bounds


def test_pixel_intervals_are_absent_where_they_mean_nothing() -> None:
    maps, masks = small_case(9, levels=None)
    assert bootstrap_pixel_metrics(maps, masks, n=0, confidence=0.95, seed=1).bounds == {}
    assert bootstrap_pixel_metrics(maps[2:], masks[2:], n=50, confidence=0.95, seed=1).bounds == {}  # one defective
    assert bootstrap_pixel_metrics(maps[:4], masks[:4], n=50, confidence=0.95, seed=1).bounds == {}  # one clean
    assert bootstrap_pixel_metrics(maps, None, labels=[1] * 5, n=50, confidence=0.95, seed=1).bounds == {}
    assert bootstrap_pixel_metrics(maps[:3], masks[:3], n=50, confidence=0.95, seed=1).bounds != {}  # no clean image
    with pytest.raises(AescError, match="bootstrap"):
        bootstrap_pixel_metrics(maps, masks, n=-1, confidence=0.95, seed=1)
    with pytest.raises(AescError, match="confidence"):
        bootstrap_pixel_metrics(maps, masks, n=5, confidence=1.0, seed=1)

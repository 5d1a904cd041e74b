"""Changes of light: what they keep, and what they change."""

import cv2
import numpy as np
import pytest
import skimage.data

from ripe.data import light
from ripe.data.light import change_light

PHOTO = np.ascontiguousarray(skimage.data.astronaut()[60:220, 140:300])


def test_changes_keep_shape_and_type_and_leave_something_to_see() -> None:
    for seed in range(60):
        changed = change_light(PHOTO, 1.0, np.random.default_rng(seed))
        assert changed.shape == PHOTO.shape
        assert changed.dtype == np.uint8
        assert changed.std() > 3


def test_a_view_depends_on_its_generator_alone() -> None:
    first, again, other = (change_light(PHOTO, 1.0, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_no_strength_changes_nothing() -> None:
    assert np.array_equal(change_light(PHOTO, 0.0, np.random.default_rng(0)), PHOTO)


@pytest.mark.parametrize("effect", [effect for _, effect in light.EFFECTS], ids=lambda effect: effect.__name__)
def test_effects_change_pixels_where_they_are(effect: light.Effect) -> None:
    """Structure stays in its place: edges before and after are nowhere better aligned than without a shift."""
    before = PHOTO.astype(np.float32) / 255
    aligned = 0
    for seed in range(8):
        changed = np.clip(effect(before, 1.0, np.random.default_rng(seed)), 0, 1)
        assert changed.shape == before.shape
        assert changed.dtype == np.float32
        assert np.isfinite(changed).all()
        assert not np.array_equal(changed, before)
        # A drawing is dark where the photo has edges.
        shown = _edges(changed) if effect is not light._drawing else 1 - changed.mean(axis=2)
        aligned += _best_shift(_edges(before), shown) == (0, 0)
    assert aligned >= 7


def test_night_darkens_and_haze_flattens() -> None:
    before = PHOTO.astype(np.float32) / 255
    nights = [light._night(before, 1.0, np.random.default_rng(seed)) for seed in range(20)]
    hazes = [light._haze(before, 1.0, np.random.default_rng(seed)) for seed in range(20)]
    assert np.median([night.mean() for night in nights]) < 0.6 * before.mean()
    assert all(haze.std() < before.std() for haze in hazes)


def test_tone_curves_keep_the_order_of_grey_levels() -> None:
    ramp = np.linspace(0, 1, 256, dtype=np.float32)[None, :, None].repeat(3, axis=2)
    for seed in range(20):
        assert (np.diff(light._tone_curve(ramp, 1.0, np.random.default_rng(seed))[0, :, 0]) >= -1e-6).all()


def _edges(image: np.ndarray) -> np.ndarray:
    grey = cv2.cvtColor(image.astype(np.float32), cv2.COLOR_RGB2GRAY)
    grey = cv2.GaussianBlur(grey, (0, 0), 1.0)
    # Blurred, as a line that is drawn along an edge has two of its own.
    return cv2.GaussianBlur(np.hypot(cv2.Sobel(grey, -1, 1, 0), cv2.Sobel(grey, -1, 0, 1)), (0, 0), 2.0)


def _best_shift(first: np.ndarray, second: np.ndarray) -> tuple[int, int]:
    inner = second[10:-10, 10:-10]
    inner = inner - inner.mean()
    scores = {}
    for dy in range(-8, 9, 4):
        for dx in range(-8, 9, 4):
            part = first[10 + dy : first.shape[0] - 10 + dy, 10 + dx : first.shape[1] - 10 + dx]
            scores[dx, dy] = float(((part - part.mean()) * inner).sum() / part.std())
    return max(scores, key=lambda shift: scores[shift])

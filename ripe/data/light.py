"""Changes of light, season, weather, age and camera on a view: what makes two photos of one place look unlike.

Nothing here moves a pixel, so a warp that joins two views goes on joining them. All effects are drawn anew for each
view. `strength` 0 changes nothing; 1 is as hard as a photo at night beside one at noon.

kornia has some of these effects for batches of float tensors, drawn from the global generator; here views are uint8
arrays in worker processes, and a pair's randomness is a function of its number.
"""

from collections.abc import Callable

import cv2
import numpy as np

Effect = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
"""From an H×W×3 float32 view of light in 0..1, a strength and a generator to such a view, not yet cut to 0..1."""

# A view of a photo that keeps its structure: no effect may leave less than this spread of grey levels.
LEAST_CONTRAST = 6.0


def change_light(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A differently lit, coloured and taken H×W×3 uint8 RGB view of the same scene.

    Effects follow the way of light: what the scene looks like (colours, season), how it is lit (shading, shadows,
    night, lamps), what is in the air (haze, rain), and what the camera makes of it (tone curve, blur, noise,
    sharpening, compression, grey).
    """
    if strength <= 0:
        return image
    strength *= rng.uniform(0.1, 1.0)
    light = image.astype(np.float32) / 255
    for share, effect in EFFECTS:
        if rng.random() < share:
            light = _kept_readable(effect(light, strength, rng), light)
    return _camera(light, strength, rng)


def _kept_readable(changed: np.ndarray, before: np.ndarray) -> np.ndarray:
    """`changed`, or what was `before` where nothing would be left to see."""
    changed = np.clip(changed, 0, 1)
    return changed if changed.std() * 255 >= LEAST_CONTRAST else before


def _smooth_field(shape: tuple[int, ...], rng: np.random.Generator, cells: int) -> np.ndarray:
    """H×W×1 smooth random numbers in about -1..1."""
    coarse = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
    return cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)[:, :, None]


def _mix_channels(light: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Other spectral sensitivities, as of near infrared or orthochromatic film: a random mixture of the channels."""
    mixture = np.eye(3) + strength * rng.uniform(-0.6, 0.6, (3, 3))
    mixture /= np.maximum(mixture.sum(axis=1, keepdims=True), 0.3)
    return light @ mixture.T.astype(np.float32)


def _shift_hues(light: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Another season: each range of hues gets a shift, a saturation and a brightness of its own."""
    hsv = cv2.cvtColor(np.clip(light, 0, 1), cv2.COLOR_RGB2HSV)
    knots = np.linspace(0, 360, 7)
    changes = rng.uniform(-1, 1, (3, 7))
    changes[:, -1] = changes[:, 0]
    hue, saturation = hsv[:, :, 0], hsv[:, :, 1]
    degrees = hue.astype(np.uint16)
    shift, vividness, value = (
        np.interp(np.arange(361), knots, change).astype(np.float32)[degrees] for change in changes
    )
    hsv[:, :, 0] = (hue + strength * 60 * shift) % 360
    hsv[:, :, 2] *= np.exp(strength * 0.9 * value * saturation)
    hsv[:, :, 1] = np.clip(saturation * np.exp(strength * vividness), 0, 1)
    return cv2.cvtColor(np.clip(hsv, 0, [360, 1, 1]).astype(np.float32), cv2.COLOR_HSV2RGB)


def _shade(light: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Light from another side: a smooth field brightens and darkens parts of the view."""
    return light * cv2.exp(1.1 * strength * _smooth_field(light.shape, rng, int(rng.integers(2, 6))))[:, :, None]


def _cast_shadow(light: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A shadow with an edge, sharp or soft, bluish as shadows under the sky are."""
    height, width = light.shape[:2]
    corners = (rng.uniform(-0.2, 1.2, (int(rng.integers(3, 6)), 2)) * [width, height]).astype(np.int32)
    sharp = np.zeros((height, width), np.float32)
    cv2.fillPoly(sharp, [cv2.convexHull(corners)], 1.0)
    mask = cv2.GaussianBlur(sharp, (0, 0), float(rng.uniform(0.7, 8)))[:, :, None]
    dark = np.exp(-strength * rng.uniform(0.3, 1.5)) * np.array([0.9, 1.0, 1.1], np.float32)
    return light * (1 - mask + mask * np.minimum(dark, 1).astype(np.float32))


def _night(light: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Little light, a few lamps that light their surroundings in their colour, and the camera's gain on top."""
    dark = cv2.pow(light, 1 + 0.8 * strength * rng.random()) * np.float32(np.exp(-strength * rng.uniform(0.5, 2.2)))
    height, width = light.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    lit = np.zeros((height, width, 3), np.float32)
    for _ in range(int(rng.integers(0, 5))):
        cx, cy = rng.uniform(0, width), rng.uniform(0, height)
        reach = width * np.exp(rng.uniform(np.log(0.05), np.log(0.5)))
        fall = cv2.exp(-((x - cx) ** 2 + (y - cy) ** 2) / np.float32(2 * reach**2))[:, :, None]
        lit += (
            fall
            * np.array([1.0, rng.uniform(0.6, 0.95), rng.uniform(0.3, 0.9)], np.float32)
            * np.float32(rng.uniform(0.3, 1.2))
        )
    return dark + strength * light * lit + 0.08 * strength * np.minimum(lit, 1.5)


def _haze(light: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Haze or fog that thickens along a direction, as with distance."""
    thickness = 0.5 + 0.5 * _smooth_field(light.shape, rng, 2)
    transmission = np.exp(np.float32(-strength * rng.uniform(0.3, 1.5)) * np.clip(thickness, 0, None))
    return light * transmission + np.float32(rng.uniform(0.6, 0.95)) * (1 - transmission)


def _rain(light: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Streaks of rain or flakes of snow: bright noise, drawn out along one direction."""
    drops = (rng.random(light.shape[:2]) < 0.004 + 0.01 * strength * rng.random()).astype(np.float32)
    length = int(rng.integers(1, 15))
    kernel = np.zeros((15, 15), np.float32)
    angle = rng.uniform(-0.6, 0.6)
    reach = length / 2 * np.array([np.sin(angle), np.cos(angle)])
    start, end = (7 - reach).round().astype(int).tolist(), (7 + reach).round().astype(int).tolist()
    cv2.line(kernel, start, end, 1.0)
    streaks = np.minimum(cv2.filter2D(drops, -1, kernel), 1)[:, :, None]
    return light + (0.9 - light) * streaks * np.float32(rng.uniform(0.1, 0.5) * strength)


def _tone_curve(light: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Exposure, and a monotone curve with a shape of its own for this camera, film or print."""
    steps = np.exp(strength * rng.uniform(-1.0, 1.0, 6))
    levels = np.concatenate([[0], np.cumsum(steps)]) / steps.sum()
    low, high = strength * rng.uniform(0, 0.25), 1 - strength * rng.uniform(0, 0.25)
    exposed = np.linspace(0, 1, 1024) ** np.exp(strength * rng.uniform(-0.7, 0.7))
    gain = np.exp(strength * rng.uniform(-0.5, 0.2))
    curve = np.interp(np.clip(gain * exposed, 0, 1), np.linspace(0, 1, 7), low + (high - low) * levels)
    return curve.astype(np.float32)[(1023 * np.clip(light, 0, 1)).astype(np.uint16)]


def _colour_cast(light: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Another white balance."""
    return light * np.exp(strength * rng.uniform(-0.3, 0.3, 3)).astype(np.float32)


def _drawing(light: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """An engraving or a sketch: dark lines where the photo has edges, on paper, over a faint wash."""
    grey = cv2.cvtColor(np.clip(light, 0, 1), cv2.COLOR_RGB2GRAY)
    fine = cv2.GaussianBlur(grey, (0, 0), float(rng.uniform(0.5, 1.2)))
    coarse = cv2.GaussianBlur(grey, (0, 0), float(rng.uniform(1.6, 3.5)))
    lines = 1 - np.clip(np.abs(fine - coarse) * rng.uniform(6, 14), 0, 1)
    wash = rng.uniform(0, 0.6)
    drawn = ((1 - wash) * lines + wash * grey)[:, :, None]
    paper = np.array([1.0, rng.uniform(0.85, 1), rng.uniform(0.7, 1)], np.float32)
    return light + min(strength, 1.0) * (drawn * paper - light)


def _camera(light: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Grey, blur or sharpening, noise that grows in the dark, and JPEG."""
    if rng.random() < 0.2:
        light = np.repeat(cv2.cvtColor(light.astype(np.float32), cv2.COLOR_RGB2GRAY)[:, :, None], 3, axis=2)
    light = light.astype(np.float32)
    kind = rng.random()
    if kind < 0.25:
        light = cv2.GaussianBlur(light, (0, 0), rng.uniform(0.4, 0.4 + 1.4 * strength))
    elif kind < 0.4:
        light = light + rng.uniform(0.3, 2.0) * strength * (
            light - cv2.GaussianBlur(light, (0, 0), rng.uniform(0.7, 2))
        )
    if rng.random() < 0.45:
        light = light + _sensor_noise(light, strength, rng)
    image = np.clip(255 * light + 0.5, 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        quality = int(rng.integers(round(90 - 65 * min(strength, 1)), 95))
        encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        image = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))
    return image


def _sensor_noise(light: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Shot and read noise, grainy where a camera smooths it, in colour or not."""
    height, width = light.shape[:2]
    noise: np.ndarray = rng.standard_normal((height, width, 3 if rng.random() < 0.5 else 1), dtype=np.float32)
    if rng.random() < 0.3:
        noise = cv2.GaussianBlur(noise, (0, 0), 0.8).reshape(height, width, -1) * 2
    level = np.exp(rng.uniform(np.log(0.004), np.log(0.004 + 0.07 * strength)))
    return noise * np.float32(level) * (0.5 + np.sqrt(np.clip(light, 0, 1)))


# How often each happens to a view, in the order in which light meets them.
EFFECTS: tuple[tuple[float, Effect], ...] = (
    (0.25, _mix_channels),
    (0.25, _shift_hues),
    (0.4, _shade),
    (0.25, _cast_shadow),
    (0.2, _night),
    (0.15, _haze),
    (0.08, _rain),
    (0.8, _tone_curve),
    (0.4, _colour_cast),
    (0.05, _drawing),
)

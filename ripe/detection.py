"""From a score map to keypoints: local maxima, the best of them, and a sub-pixel refinement."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ripe import checks

WIDEST = 1000  # radius within which anything is told apart


@dataclass(frozen=True)
class DetectionSettings:
    """How a network's score map is read at test time.

    Attributes:
        threshold: least score (a logit) of a keypoint.
        nms_radius: a keypoint is the maximum of the (2·radius + 1)² pixels around it.
        border: keypoints nearer than this many pixels to the image border are dropped.
        subpixel: refine positions by a quadratic fit.

    Raises:
        ValueError: one of them is none of these.
    """

    threshold: float
    nms_radius: int = 1
    border: int = 0
    subpixel: bool = False

    def __post_init__(self) -> None:
        checks.not_nan(self.threshold, "threshold")
        checks.whole_number(self.nms_radius, "nms_radius", 0, WIDEST)
        checks.whole_number(self.border, "border", 0)
        if not isinstance(self.subpixel, bool):
            raise ValueError(f"subpixel is {self.subpixel!r}; it must be true or false")


def local_maximum(logits: Tensor, radius: int) -> Tensor:
    """Maximum of the (2·radius + 1)² window around each pixel of an H×W map, or of each of B×H×W maps.

    Two passes of doubling steps: several times faster than PyTorch's `max_pool2d` on a CPU, same result.
    """
    window = 2 * radius + 1
    if torch.compiler.is_compiling():  # an exported graph, in which every step is a copy or two
        columns = F.max_pool2d(logits[..., None, :, :], (window, 1), 1, (radius, 0))
        return F.max_pool2d(columns, (1, window), 1, (0, radius)).squeeze(-3)
    for dim in (-2, -1):
        padding = (0, 0, radius, radius) if dim == -2 else (radius, radius)
        logits = F.pad(logits, padding, value=-torch.inf)
        length = logits.shape[dim]
        covered = 1
        while covered < window:
            step = min(covered, window - covered)
            length -= step
            logits = torch.maximum(logits.narrow(dim, 0, length), logits.narrow(dim, step, length))
            covered += step
    return logits


def detect(
    logits: Tensor, settings: DetectionSettings, max_keypoints: int | None, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Keypoints of one image, best first.

    Args:
        logits: H×W score map.
        settings: which pixels count.
        max_keypoints: how many are kept at most; all if None.
        mask: optional H×W bool, True where keypoints may lie.

    Returns:
        N×2 float32 (x, y) in pixels of the map, and N float32 scores. Equal scores keep the order of the pixels.
    """
    logits = logits.float()
    found = _candidates(logits, settings, settings.threshold)
    if mask is not None:
        found &= mask
    rows, columns = found.nonzero(as_tuple=True)
    scores = logits[rows, columns]
    order = scores.argsort(descending=True, stable=True)[:max_keypoints]
    rows, columns, scores = rows[order], columns[order], scores[order]
    keypoints = torch.stack([columns, rows], dim=-1).float()
    if settings.subpixel:
        keypoints = keypoints + fit_peaks(logits, rows, columns).offsets
    return keypoints, scores


def detect_padded(
    logits: Tensor, settings: DetectionSettings, threshold: Tensor, max_keypoints: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """`detect` for a batch without a loop over its images, for export: every shape follows from tensors.

    Args:
        logits: B×H×W score maps.
        settings: which pixels count, but for the threshold.
        threshold: least score of a keypoint, a single float32.
        max_keypoints: how many an image keeps at most, a single int64 of 1 or more.

    Returns:
        B×M×2 float32 keypoints, B×M float32 scores and B int64 counts; M is the largest count. Beyond an image's count,
        scores are −inf and keypoints mean nothing. What `detect` gives for each image comes before.
    """
    logits = logits.float()
    height, width = logits.shape[-2:]
    found = _candidates(logits, settings, threshold)
    # Sums of float32 are faster than those of integers, and exact of a row.
    counts = torch.minimum(found.float().sum(dim=2).long().sum(dim=1), max_keypoints)
    most = counts.max().item()
    torch._check(most >= 0)
    torch._check(most <= height * width)
    scores, pixels = torch.where(found, logits, -torch.inf).flatten(1).topk(most)  # type: ignore[arg-type]
    # Pixels are no negative numbers; a division that rounds down would take operators that OpenCV does not have.
    rows = torch.div(pixels, width, rounding_mode="trunc")
    columns = pixels - rows * width
    keypoints = torch.stack([columns, rows], dim=-1).float()
    if settings.subpixel:
        keypoints = keypoints + fit_peaks(logits, rows, columns).offsets
    return keypoints, scores, counts


def _candidates(logits: Tensor, settings: DetectionSettings, threshold: float | Tensor) -> Tensor:
    """Where H×W or B×H×W maps have a keypoint if none is dropped for its rank, bool."""
    found = (logits > threshold) & (logits == local_maximum(logits, settings.nms_radius))
    if settings.border > 0:
        rows, columns = (
            (torch.arange(length, device=logits.device) >= settings.border)
            & (torch.arange(length, device=logits.device) < length - settings.border)
            for length in logits.shape[-2:]
        )
        found = found & rows[:, None] & columns
    return found


class Peaks(NamedTuple):
    """The quadratics through the 3×3 scores around N maxima, or B×M of them.

    Attributes:
        offsets: N×2, where they peak relative to the pixel, within ±0.5; 0 on the border and where there is no peak.
            Differentiable with respect to the scores, by a gradient that grows with the inverse of the sharpness.
        sharpness: N, the least curvature of the peak, in score per square pixel; 0 where there is no peak or it lies
            outside the pixel, so that `offsets` are not where it is. Without gradient.
    """

    offsets: Tensor
    sharpness: Tensor


def fit_peaks(logits: Tensor, rows: Tensor, columns: Tensor) -> Peaks:
    """Fit a quadratic to the H×W map `logits` around each of N maxima, or to B×H×W maps around B×M maxima."""
    height, width = logits.shape[-2:]
    interior = (rows > 0) & (rows < height - 1) & (columns > 0) & (columns < width - 1)
    y, x = rows.clamp(1, height - 2), columns.clamp(1, width - 2)
    image = () if logits.ndim == 2 else (torch.arange(logits.shape[0], device=logits.device)[:, None],)
    around = {(dy, dx): logits[(*image, y + dy, x + dx)] for dy in (-1, 0, 1) for dx in (-1, 0, 1)}
    gx = (around[0, 1] - around[0, -1]) / 2
    gy = (around[1, 0] - around[-1, 0]) / 2
    gxx = around[0, 1] - 2 * around[0, 0] + around[0, -1]
    gyy = around[1, 0] - 2 * around[0, 0] + around[-1, 0]
    gxy = (around[1, 1] - around[1, -1] - around[-1, 1] + around[-1, -1]) / 4
    determinant = gxx * gyy - gxy * gxy
    peaked = interior & (determinant > 1e-12) & (gxx < 0)
    divisor = torch.where(peaked, determinant, 1)
    offsets = torch.stack([gxy * gy - gyy * gx, gxy * gx - gxx * gy], dim=-1) / divisor[..., None]
    sharpness = _least_curvature(gxx.detach(), gyy.detach(), gxy.detach())
    inside = peaked & (offsets.detach().abs() < 0.5).all(dim=-1)
    return Peaks(torch.where(peaked[..., None], offsets.clamp(-0.5, 0.5), 0), torch.where(inside, sharpness, 0))


def _least_curvature(gxx: Tensor, gyy: Tensor, gxy: Tensor) -> Tensor:
    """The smaller eigenvalue of minus the Hessian."""
    return -(gxx + gyy) / 2 - torch.hypot((gxx - gyy) / 2, gxy)

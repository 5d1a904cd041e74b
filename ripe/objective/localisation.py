"""Keypoints to a fraction of a pixel: how far apart two views of one photo put the same point of the scene.

The detector's sub-pixel fit can be differentiated, so a self-pair's warp can teach the scores around a maximum to peak
at the same point in both views, as ALIKE (Zhao et al., IEEE Transactions on Multimedia 2022) does with a soft-argmax.
"""

import torch
from torch import Tensor

from ripe.detection import DetectionSettings, detect, fit_peaks
from ripe.geometry.homography import apply_homography

DETECTION = DetectionSettings(threshold=-torch.inf, nms_radius=2)
"""Which pixels are maxima: as for the compact network, but weak ones and those near the border are taught as well."""

SHARP = 1.0
"""Score per square pixel; the gradient of a keypoint is weighted down where the peak is flatter than this."""

REACH = 2.0
"""Pixels; keypoints farther apart are different points of the scene."""


def localisation_errors(
    logits0: Tensor,
    logits1: Tensor,
    valid0: Tensor,
    valid1: Tensor,
    H_0to1: Tensor,  # noqa: N803
) -> Tensor:
    """Distances between keypoints of the first view, moved by the warp, and the nearest ones of the second.

    Args:
        logits0: H×W score map of the first view.
        logits1: H×W score map of the second.
        valid0: H×W bool, False where the first view shows nothing.
        valid1: H×W bool, likewise of the second.
        H_0to1: 3×3, pixels of the first view to pixels of the second.

    Returns:
        K distances in pixels of the second view, none above `REACH`; differentiable with respect to both score maps, by
        gradients that are bounded however flat the maps are.
    """
    keypoints0, keypoints1 = _keypoints(logits0, valid0), _keypoints(logits1, valid1)
    if not len(keypoints0) or not len(keypoints1):
        return logits0.new_zeros(0)
    warped = apply_homography(H_0to1, keypoints0)
    nearest = torch.cdist(warped.detach(), keypoints1.detach()).nan_to_num(torch.inf).argmin(dim=1)
    errors = (warped - keypoints1[nearest]).square().sum(dim=1)
    return (errors[errors < REACH**2] + 1e-6).sqrt()


def _keypoints(logits: Tensor, valid: Tensor) -> Tensor:
    """N×2 maxima of an H×W map to a fraction of a pixel.

    A fit moves the more, the flatter the peak: noise of a white wall would teach more than a corner. So a flat peak's
    place is what it is, and its gradient is weighted by the peak's sharpness.
    """
    pixels = detect(logits, DETECTION, logits.numel(), valid)[0]
    peaks = fit_peaks(logits, *pixels.flip(-1).long().unbind(dim=-1))
    weights = (peaks.sharpness / SHARP).clamp(max=1).pow(2)[:, None]
    fixed = peaks.offsets.detach()
    return pixels + fixed + weights * (peaks.offsets - fixed)

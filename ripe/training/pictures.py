"""A picture of what the model makes of a pair that it is trained with."""

import numpy as np

from ripe.data.batch import PairBatch
from ripe.drawing import draw_matches
from ripe.geometry.robust import estimate_geometry
from ripe.matching import Match, match
from ripe.model import RIPE
from ripe.objective.inliers import warp_inliers


def match_picture(
    model: RIPE, batch: PairBatch, *, max_error: float, max_keypoints: int = 512, match: Match = match
) -> np.ndarray:
    """Matches between the views of the batch's first positive pair, H×W×3 uint8 RGB; wrong ones are red.

    Args:
        model: in evaluation mode.
        batch: of training pairs.
        max_error: of a right match in pixels: to the known warp, or to a fitted epipolar geometry.
        max_keypoints: of a view.
        match: what matches the features.
    """
    pair = int(batch.positive.long().argmax())
    views = [batch.images[index].float() / 255 for index in (pair, pair + len(batch))]
    features = [found.to("cpu") for found in model.extract(views, max_keypoints=max_keypoints)]
    points = match(*features).points(*features)
    if batch.by_warp[pair]:
        right = warp_inliers(*points, batch.H_0to1[pair], max_error=max_error)
    else:
        right = estimate_geometry("fundamental", *points, max_error=max_error, max_iterations=1000).inliers
    return draw_matches(views, points, wrong=~right)

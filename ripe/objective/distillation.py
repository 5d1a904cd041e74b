"""What a trained extractor teaches another one, of another size perhaps: its descriptors, and where keypoints belong.

No label is needed, only photos. The pupil learns the teacher's space of descriptors, so that the features of one
match those of the other.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ripe.model import RIPE
from ripe.objective.cells import to_cells
from ripe.objective.sampling import PolicyOutput, landing


class Lesson(NamedTuple):
    """What a teacher says of 2P views, the P first ones before the P second ones.

    Attributes:
        logits: 2P×S×S score maps.
        descriptors: 2P×N×D, of every cell's proposal. Where the other view is known to show the same point, they are
            those of both views' mean, which neither light nor perspective of one view alone decides.
    """

    logits: Tensor
    descriptors: Tensor


@torch.no_grad()
def lesson(teacher: RIPE, images: Tensor, output: PolicyOutput) -> Lesson:
    """What `teacher`, in evaluation mode, says of the 2P×3×S×S `images` where the pupil's `output` has proposals."""
    maps = teacher(images.contiguous(memory_format=torch.channels_last))
    pairs, cells = len(images) // 2, output.warped.shape[1]
    places = torch.cat([output.samples.keypoints, landing(output.warped, images.shape[-1])], dim=1)
    own, landed = teacher.describe(maps, places).split(cells, 1)
    both = F.normalize(own + landed.roll(pairs, dims=0), dim=-1)
    return Lesson(maps.logits[:, 0].float(), torch.where(output.visible[..., None], both, own))


def descriptor_distance(output: PolicyOutput, taught: Lesson) -> Tensor:
    """One minus the cosine to the teacher's descriptors, summed over the cells inside the photos.

    Where the other view is known to show the point, it is the mean of that of both views' descriptors.
    """
    inside = output.samples.inside
    own, other = (
        1 - (torch.stack(descriptors) * taught.descriptors).sum(dim=-1)
        for descriptors in (output.descriptors, output.counterparts)
    )
    return torch.where(output.visible, (own + other) / 2, own)[inside].sum()


def score_divergence(output: PolicyOutput, taught: Lesson) -> Tensor:
    """Kullback-Leibler divergence of the policy from the teacher's, of both draws, summed over the cells inside.

    A cell draws a position and then accepts or rejects it, so that the divergence is that of the positions and, as
    the teacher would draw them, that of acceptance there.
    """
    inside = output.samples.inside
    pupil, teacher = (to_cells(logits.float())[inside] for logits in (output.logits, taught.logits))
    there = F.log_softmax(teacher, dim=-1)
    positions = there - F.log_softmax(pupil, dim=-1)
    accepts = torch.sigmoid(teacher) * (F.logsigmoid(teacher) - F.logsigmoid(pupil))
    rejects = torch.sigmoid(-teacher) * (F.logsigmoid(-teacher) - F.logsigmoid(-pupil))
    return (there.exp() * (positions + accepts + rejects)).sum()

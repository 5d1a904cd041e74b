"""Convolutions written anew to have more channels and fewer pixels, which they compute at once in blocks.

A processor computes as many channels at once as fit a vector; lanes that no channel fills are lost.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def by_blocks(convolution: nn.Conv2d, rows: int, columns: int) -> nn.Conv2d:
    """A convolution of stride 1 and unchanged size as one that gives blocks of pixels at once.

    In place of B×O×H×W, it gives B×(rows·columns·O)×(H/rows)×(W/columns), the channels in this order.
    """
    # The taps of each pixel of a block, where they lie among those of the block.
    margins = [(x, columns - 1 - x, y, rows - 1 - y) for y in range(rows) for x in range(columns)]
    weight = torch.cat([F.pad(convolution.weight, margin) for margin in margins])
    height, width = convolution.kernel_size
    return _convolution(weight, convolution.bias, stride=(rows, columns), padding=(height // 2, width // 2))


def of_pairs(convolution: nn.Conv2d) -> nn.Conv2d:
    """A convolution of even width and step as one that takes pairs of neighbours in a row for one pixel.

    In place of B×C×H×W, it takes B×(2·C)×H×(W/2): all channels of the left pixel, then all of the right one.
    """
    rows, columns = convolution.stride
    assert not isinstance(convolution.padding, str)
    above, left = convolution.padding
    weight = F.pad(convolution.weight, (left % 2, left % 2)).unflatten(3, (-1, 2))  # O×C×k×pairs×2
    weight = weight.permute(0, 4, 1, 2, 3).flatten(1, 2)
    return _convolution(weight, convolution.bias, stride=(rows, columns // 2), padding=(above, (left + 1) // 2))


def block_means(channels: int) -> nn.Conv2d:
    """`nn.AvgPool2d(2)` as a convolution."""
    weight = torch.eye(channels)[:, :, None, None].expand(-1, -1, 2, 2) / 4
    return _convolution(weight, None, stride=(2, 2), padding=(0, 0))


def _convolution(weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]) -> nn.Conv2d:
    """A convolution of an O×I×k×l `weight`; one number of `bias` after the other is added, over and over."""
    outputs, inputs, height, width = weight.shape
    made = nn.Conv2d(inputs, outputs, (height, width), stride, padding, bias=bias is not None)
    made.weight = fixed(weight)
    if bias is not None:
        made.bias = fixed(bias.repeat(outputs // len(bias)))
    return made


def fixed(values: Tensor) -> nn.Parameter:
    """A parameter that is not trained."""
    return nn.Parameter(values.detach().contiguous(), requires_grad=False)

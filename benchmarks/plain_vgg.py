"""The published network written down plainly: what `ripe`'s way of running it is measured against.

Whole maps in PyTorch's default memory layout, batch normalisation as a layer of its own, one image per call. It takes
the weights of `ripe.pretrained.build_vgg_hyper()` by the same names.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512, 512, 512, 512)


class PlainEncoder(nn.Module):
    """VGG-19 with batch normalisation up to the fourth stage; 0 stands for a pool."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        previous = 3
        for width in WIDTHS:
            if width == 0:
                self.layers.append(nn.MaxPool2d(2))
                continue
            self.layers.extend([nn.Conv2d(previous, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)])
            previous = width

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for layer in self.layers:
            if isinstance(layer, nn.MaxPool2d):
                maps.append(x)
            x = layer(x)
        return [*maps, x]


class PlainRefiner(nn.Module):
    """One scale of the decoder."""

    def __init__(self, in_channels: int, hidden: int, out_channels: int) -> None:
        super().__init__()
        self.block1 = self.block(in_channels, hidden, 1, 1)
        self.hidden_blocks = nn.Sequential(*(self.block(hidden, hidden, 5, hidden) for _ in range(8)))
        self.out_conv = nn.Conv2d(hidden, out_channels, 1)

    @staticmethod
    def block(in_channels: int, hidden: int, kernel_size: int, groups: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(in_channels, hidden, kernel_size, padding=kernel_size // 2, groups=groups),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, hidden, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x0 = self.block1(x)
        return self.out_conv((self.hidden_blocks(x0) + x0) / 1.4)


class PlainDecoder(nn.Module):
    """Refiners from coarse to fine."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(
            {
                "8": PlainRefiner(512, 512, 1 + 256),
                "4": PlainRefiner(512, 256, 1 + 128),
                "2": PlainRefiner(256, 128, 1 + 64),
                "1": PlainRefiner(128, 64, 1 + 1),
            }
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        outputs = self.layers["8"](maps[-1])
        score, context = outputs[:, :1], outputs[:, 1:]
        for stride, features in zip("421", maps[-2::-1], strict=True):
            size = features.shape[-2:]
            score = F.interpolate(score, size=size, mode="bilinear", align_corners=False)
            context = F.interpolate(context, size=size, mode="bilinear", align_corners=False)
            outputs = self.layers[stride](torch.cat([features, context], dim=1))
            score, context = score + outputs[:, :1], outputs[:, 1:]
        return score


class PlainVgg(nn.Module):
    """Image to keypoints, descriptors and scores."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.ModuleDict({"encoder": PlainEncoder(), "decoder": PlainDecoder()})
        self.conv_dim_reduction_coarse_desc = nn.Conv1d(960, 256, 1)

    @torch.inference_mode()
    def detect_and_compute(self, image: Tensor, threshold: float, top_k: int) -> tuple[Tensor, Tensor, Tensor]:
        """Keypoints (x, y), descriptors and scores of a 3×H×W image."""
        height, width = image.shape[-2:]
        maps = self.net["encoder"](F.instance_norm(image[None]))
        heat = self.net["decoder"](maps)
        kept = (heat == F.max_pool2d(heat, 3, stride=1, padding=1)) & (heat > threshold)
        rows, columns = kept[0, 0].nonzero(as_tuple=True)
        scores, order = heat[0, 0, rows, columns].sort(descending=True)
        scores, order = scores[:top_k], order[:top_k]
        keypoints = torch.stack([columns[order], rows[order]], dim=-1).float()
        grid = 2 * keypoints / torch.tensor([width - 1, height - 1]) - 1
        column = torch.cat([F.grid_sample(x, grid[None, :, None], align_corners=True) for x in maps], dim=1)[..., 0]
        descriptors = F.normalize(self.conv_dim_reduction_coarse_desc(column), dim=1)[0].T
        return keypoints, descriptors, scores / heat.max()

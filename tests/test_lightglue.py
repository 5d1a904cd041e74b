"""The matching network beside kornia's of the same weights, and what it must hold to for any number of keypoints."""

import kornia.feature
import pytest
import torch
from torch.nn.functional import normalize

from ripe.matching import mutual_nearest_neighbours
from ripe.networks.lightglue import ABSENT, LightGlue, Points, mutual_best, normalised

SIZE = (640, 480)


def points(count: int, seed: int, dim: int = 32) -> Points:
    """Random keypoints of an image of SIZE."""
    generator = torch.Generator().manual_seed(seed)
    keypoints = torch.rand(1, count, 2, generator=generator) * (torch.tensor(SIZE) - 1)
    return Points(normalised(keypoints, SIZE), normalize(torch.randn(1, count, dim, generator=generator), dim=-1))


def random_network(seed: int = 0, dim: int = 32, width: int = 32, layers: int = 3) -> LightGlue:
    """One all of whose parts do something."""
    torch.manual_seed(seed)
    network = LightGlue(dim, width, layers=layers, heads=2).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return network


def as_kornia(network: LightGlue, *, early: bool) -> kornia.feature.LightGlue:
    """kornia's LightGlue with the same weights."""
    options = network.options()
    given = {"input_dim": options["descriptor_dim"], "descriptor_dim": options["width"], "n_layers": options["layers"]}
    confidences = {"depth_confidence": 0.95, "width_confidence": 0.99} if early else {}
    confidences = confidences or {"depth_confidence": -1, "width_confidence": -1}
    other = kornia.feature.LightGlue(None, **given, num_heads=options["heads"], flash=False, **confidences).eval()
    heads, width = options["heads"], options["width"]

    def copy(target: torch.nn.Linear, weight: torch.Tensor, bias: torch.Tensor) -> None:
        target.weight.data.copy_(weight)
        target.bias.data.copy_(bias)

    other.posenc.Wr.weight.data.copy_(network.positions.frequencies.weight)
    if options["descriptor_dim"] != width:
        other.input_proj.load_state_dict(network.input.state_dict())
    for layer in range(options["layers"]):
        within, between = network.within[layer], network.between[layer]
        theirs = other.transformers[layer]
        # kornia's rows are ordered by head, number and only then query, key and value.
        order = torch.arange(3 * width).reshape(3, heads, width // heads).permute(1, 2, 0).reshape(-1)
        copy(theirs.self_attn.Wqkv, within.project.weight[order], within.project.bias[order])
        for target, source in (("to_qk", slice(width)), ("to_v", slice(width, None))):
            copy(getattr(theirs.cross_attn, target), between.project.weight[source], between.project.bias[source])
        for block, out, change in (
            (theirs.self_attn, "out_proj", within.change),
            (theirs.cross_attn, "to_out", between.change),
        ):
            getattr(block, out).load_state_dict(change.message.state_dict())
            block.ffn.load_state_dict(change.layers.state_dict())
        head, assign = other.log_assignment[layer], network.assign[layer]
        copy(head.final_proj, assign.project.weight * width**0.25, assign.project.bias * width**0.25)
        copy(head.matchability, assign.partner.weight, assign.partner.bias)
        if layer + 1 < options["layers"]:
            other.token_confidence[layer].token[0].load_state_dict(network.confidence[layer].state_dict())
    return other


def kornias(other: kornia.feature.LightGlue, network: LightGlue, *sides: Points) -> tuple[torch.Tensor, torch.Tensor]:
    """Its matches and scores for the same keypoints; (0, 0) is the corner of its first pixel, and not the centre."""
    images = [
        {
            "keypoints": side.positions * (max(SIZE) / 2) + torch.tensor(SIZE) / 2,
            "descriptors": side.descriptors * network.width**0.5,
            "image_size": torch.tensor([SIZE]),
        }
        for side in sides
    ]
    with torch.no_grad():
        found = other({"image0": images[0], "image1": images[1]})
    return found["matches"][0], found["scores"][0]


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_it_is_kornias_lightglue(seed: int, early: bool) -> None:
    network = random_network(seed)
    if early:  # so that all three happen: keypoints are left out, layers are, and neither
        with torch.no_grad():
            for layer in range(2):
                network.confidence[layer].bias += [3.0, 4.0, 2.5, 0.0][seed]
                network.assign[layer].partner.bias -= [3.0, 0.0, 5.0, 0.0][seed]
    first, second = points(80, seed), points(65, seed + 100)
    indices, scores = network.match(first, second, early=early)
    expected, values = kornias(as_kornia(network, early=early), network, first, second)
    kept = scores > 0.1
    assert indices[kept].tolist() == expected.tolist()
    assert torch.allclose(scores[kept], values, atol=1e-5)


def test_with_random_weights_it_matches_what_resembles_most() -> None:
    torch.manual_seed(0)
    first = points(50, 1, dim=128)
    order = torch.randperm(50)
    noise = 0.03 * points(50, 3, dim=128).descriptors
    second = Points(points(50, 2).positions, normalize(first.descriptors[:, order] + noise, dim=-1))
    indices, _ = LightGlue(128, 128).eval().match(first, second)
    expected, _ = mutual_nearest_neighbours(first.descriptors[0], second.descriptors[0])
    assert indices.tolist() == expected.tolist()
    assert len(expected) == 50


def test_what_is_filled_up_changes_nothing() -> None:
    """A batch of unequal pairs gives what single pairs give, and gradients without NaN."""
    network = random_network(5)
    counts = [(40, 25), (17, 33), (1, 30)]
    pairs = [(points(n, i), points(m, i + 9)) for i, (n, m) in enumerate(counts)]

    def stacked(side: int) -> Points:
        most = max(pair[side].positions.shape[1] for pair in pairs)
        parts = []
        for part in (0, 1):
            rows = [pair[side][part][0] for pair in pairs]
            parts.append(torch.stack([torch.cat([r, torch.randn(most - len(r), r.shape[1])]) for r in rows]))
        present = torch.stack([torch.arange(most) < pair[side].positions.shape[1] for pair in pairs])
        return Points(parts[0], parts[1], present)

    batch = network(stacked(0), stacked(1))
    for index, ((first, second), (n, m)) in enumerate(zip(pairs, counts, strict=True)):
        for alone, together in zip(network(first, second), batch, strict=True):
            assert torch.allclose(together.log_scores[index, :n, :m], alone.log_scores[0], atol=1e-4)
            assert torch.allclose(together.matchable0[index, :n], alone.matchable0[0], atol=1e-4)
            assert (together.log_scores[index, n:] == ABSENT).all()
    sum(layer.log_scores.clamp(min=-50).sum() for layer in batch).backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in network.parameters())


@pytest.mark.parametrize("counts", [(0, 0), (0, 5), (5, 0), (1, 1), (1, 7)])
def test_any_number_of_keypoints_is_matched(counts: tuple[int, int]) -> None:
    indices, scores = random_network().match(points(counts[0], 0), points(counts[1], 1))
    assert len(indices) == len(scores) == min(1, *counts)
    assert indices.dtype == torch.int64
    assert indices.shape[1] == 2


def test_no_keypoint_is_in_two_matches() -> None:
    indices, scores = random_network().match(points(200, 0), points(150, 1))
    assert all(len(set(column)) == len(column) for column in indices.T.tolist())
    assert ((scores >= 0) & (scores <= 1)).all()
    assert indices[:, 0].tolist() == sorted(indices[:, 0].tolist())


def test_the_best_of_row_and_column_is_a_plain_search() -> None:
    matrix = torch.randn(30, 20, generator=torch.Generator().manual_seed(0))
    indices, values = mutual_best(matrix)
    expected = [[i, j] for i in range(30) for j in range(20) if matrix[i, j] == matrix[i].max() == matrix[:, j].max()]
    assert indices.tolist() == expected
    assert values.tolist() == [float(matrix[i, j]) for i, j in expected]


def test_a_width_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ValueError, match="width is 30; 4 heads need a multiple of 8"):
        LightGlue(32, 30, heads=4)

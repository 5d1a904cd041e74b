"""Networks as ONNX files: image in, keypoints, scores and descriptors out, for what runs without PyTorch.

A file's inputs are

- `image`: B×3×H×W float32 RGB in 0..1, B of 1 or more, H and W of 16 or more, of any size each time it is run;
- `threshold`: least score of a keypoint, a logit; the model's own if it is not fed;
- `max_keypoints`: how many an image keeps at most, int64 of 1 or more; 2048 if it is not fed;

and its outputs, M being the largest count,

- `keypoints`: B×M×2 float32 (x, y) in pixels of the image, the centre of the top-left pixel at (0, 0);
- `scores`: B×M float32, falling, −inf beyond an image's count;
- `descriptors`: B×M×D float32, each of length 1;
- `counts`: B int64. What stands beyond an image's count means nothing.

Its metadata say what `ripe.export.metadata` gives.

A learned matcher's inputs are, for each image of a pair, n being 0 and 1,

- `keypoints<n>`: N×2 float32 (x, y) in pixels, N of 1 or more, `descriptors<n>`: N×D float32, and `size<n>`: 2 float32,
  width and height of the image;
- `min_score`: least probability of a match; 0.1 if it is not fed;

and its outputs `matches`, K×2 int64 indices of keypoints, and `scores`, K float32 probabilities. All layers are run:
no layer or keypoint is left out early.
"""

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

import ripe
from ripe.detection import detect_padded
from ripe.files import check_writable, replacing
from ripe.filters import MIN_SCORE
from ripe.matchers import ARCHITECTURE, Matcher
from ripe.model import RIPE
from ripe.networks.folding import fold
from ripe.networks.lightglue import Points, mutual_best, normalised
from ripe.photos import MIN_SIDE
from ripe.pretrained import weights_hash

if TYPE_CHECKING:
    from torch.onnx import ONNXProgram

OPSET = 20
MATCHER_INPUTS = ("keypoints0", "descriptors0", "size0", "keypoints1", "descriptors1", "size1", "min_score")
MATCHER_OUTPUTS = ("matches", "scores")
MAX_KEYPOINTS = 2048
INPUTS = ("image", "threshold", "max_keypoints")
OUTPUTS = ("keypoints", "scores", "descriptors", "counts")
ANY_SIZE = torch.export.Dim.DYNAMIC
COORDINATES = "x, y in pixels of the image; the centre of the top-left pixel is (0, 0)"


def export(model: RIPE, path: str | Path, *, license: str = "not stated") -> None:
    """Write a model as an ONNX file of opset 20, which this module's text describes; whole or not at all.

    Detection, choice of the best keypoints, sub-pixel positions and descriptors are in the graph, in float32, with
    indices in int64.

    Args:
        model: on any device; stays as it is.
        path: the file; replaced whole.
        license: of the weights, for the metadata.

    Raises:
        ValueError: the packages that it needs are not installed; the message says how they are.
        OSError: the file cannot be written.
    """
    check_writable(path)
    # Two images, as a batch of one would be taken for a constant.
    image = torch.zeros(2, 3, 4 * MIN_SIDE, 5 * MIN_SIDE)
    inputs = image, torch.tensor(model.detection.threshold), torch.tensor(MAX_KEYPOINTS)
    sizes = ({0: ANY_SIZE, 2: ANY_SIZE, 3: ANY_SIZE}, None, None)
    program = _traced(_Graph(model).eval(), inputs, sizes, INPUTS, OUTPUTS)
    _set_defaults(program, dict(zip(INPUTS[1:], inputs[1:], strict=True)))
    _name_sizes(program)
    _write(program, path, metadata(model, license))


def export_matcher(matcher: Matcher, path: str | Path, *, license: str = "not stated") -> None:
    """Write a learned matcher as an ONNX file of opset 20, which this module's text describes; whole or not at all.

    Args:
        matcher: on any device; stays as it is.
        path: the file; replaced whole.
        license: of the weights, for the metadata.

    Raises:
        ValueError: the packages that it needs are not installed; the message says how they are.
        OSError: the file cannot be written.
    """
    check_writable(path)
    dim = matcher.network.descriptor_dim
    sides = [(torch.rand(count, 2), torch.rand(count, dim), torch.tensor([640.0, 480.0])) for count in (5, 6)]
    inputs = (*sides[0], *sides[1], torch.tensor(MIN_SCORE))
    sizes = ({0: ANY_SIZE}, {0: ANY_SIZE}, None) * 2 + (None,)
    program = _traced(_MatcherGraph(matcher).eval(), inputs, sizes, MATCHER_INPUTS, MATCHER_OUTPUTS)
    _set_defaults(program, {MATCHER_INPUTS[-1]: inputs[-1]})
    about = {
        "name": ARCHITECTURE,
        "license": license,
        "weights_sha256": matcher.settings()["matcher_weights"],
        "extractor_sha256": matcher.extractor,
        "descriptor_dim": str(dim),
        "coordinates": COORDINATES,
        "version": ripe.__version__,
    }
    _write(program, path, about)


def _traced(
    graph: nn.Module, inputs: tuple[Tensor, ...], sizes: tuple, names: Sequence[str], outputs: Sequence[str]
) -> "ONNXProgram":
    """A module as an ONNX program; `sizes` says which dimensions of the inputs may differ."""
    _check_installed()
    with torch.no_grad(), _quiet():
        traced = torch.export.export(
            graph, inputs, dynamic_shapes=sizes, strict=False, prefer_deferred_runtime_asserts_over_guards=True
        )
        program = torch.onnx.export(
            traced, dynamo=True, opset_version=OPSET, input_names=names, output_names=outputs, verbose=False
        )
    assert program is not None
    return program


def _write(program: "ONNXProgram", path: str | Path, about: dict[str, str]) -> None:
    # The exporter notes of each node from which line of which file on this machine it comes.
    for node in program.model.graph:
        node.metadata_props.clear()
    program.model.metadata_props.update(about)
    with replacing(path) as temporary:
        temporary.write_bytes(program.model_proto.SerializeToString())


def metadata(model: RIPE, license: str) -> dict[str, str]:
    """What a file says about itself: what it was made of, how it detects, and in which pixels positions are."""
    return {
        "name": model.name,
        "license": license,
        "weights_sha256": weights_hash(model),
        "threshold": repr(model.detection.threshold),
        "max_keypoints": str(MAX_KEYPOINTS),
        "detection": json.dumps(asdict(model.detection)),
        "descriptor_dim": str(model.descriptor_dim),
        "coordinates": COORDINATES,
        "version": ripe.__version__,
    }


class _Graph(nn.Module):
    """What the file computes."""

    def __init__(self, model: RIPE) -> None:
        super().__init__()
        self.model = fold(model).cpu().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.model.net = self.model.net.for_export()

    def forward(self, image: Tensor, threshold: Tensor, max_keypoints: Tensor) -> tuple[Tensor, ...]:
        maps = self.model.net(image)
        logits = maps.logits[:, 0]
        keypoints, scores, counts = detect_padded(logits, self.model.detection, threshold, max_keypoints)
        return keypoints, scores, self.model.describe(maps, keypoints), counts


class _MatcherGraph(nn.Module):
    """What a matcher's file computes."""

    def __init__(self, matcher: Matcher) -> None:
        super().__init__()
        self.network = deepcopy(matcher.network).cpu()

    def forward(
        self,
        keypoints0: Tensor,
        descriptors0: Tensor,
        size0: Tensor,
        keypoints1: Tensor,
        descriptors1: Tensor,
        size1: Tensor,
        min_score: Tensor,
    ) -> tuple[Tensor, Tensor]:
        first = Points(normalised(keypoints0, size0)[None], descriptors0[None])
        second = Points(normalised(keypoints1, size1)[None], descriptors1[None])
        indices, values = mutual_best(self.network(first, second)[-1].log_scores[0])
        scores = values.exp()
        kept = scores >= min_score
        return indices[kept], scores[kept]


def _set_defaults(program: "ONNXProgram", values: dict[str, Tensor]) -> None:
    """Make inputs optional: an initializer of an input's name is its value where none is fed."""
    import onnx_ir

    graph = program.model.graph
    for value in graph.inputs:
        if value.name in values:
            value.const_value = onnx_ir.tensor(values[value.name].numpy(), name=value.name)
            graph.register_initializer(value)


def _name_sizes(program: "ONNXProgram") -> None:
    """Names in place of the tracer's for the sizes that a reader of the file sees."""
    shapes = [value.shape for value in (program.model.graph.inputs[0], *program.model.graph.outputs)]
    image, keypoints, *_ = shapes
    assert image is not None
    assert keypoints is not None
    names = {str(image[0]): "batch", str(image[2]): "height", str(image[3]): "width", str(keypoints[1]): "most"}
    for shape in shapes:
        assert shape is not None
        for dim, size in enumerate(shape):
            shape[dim] = names.get(str(size), size)


def _check_installed() -> None:
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(f"export needs onnxscript: pip install 'ripe-keypoints[export]' ({error})") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what the exporter warns of: PyTorch's own old names, operators of packages that are not installed."""
    registry = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registry.level
    registry.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        registry.setLevel(level)

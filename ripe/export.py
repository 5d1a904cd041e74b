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
"""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

import ripe
from ripe.detection import detect_padded
from ripe.files import check_writable, replacing
from ripe.model import RIPE
from ripe.networks.folding import fold
from ripe.photos import MIN_SIDE
from ripe.pretrained import weights_hash

if TYPE_CHECKING:
    from torch.onnx import ONNXProgram

OPSET = 20
MAX_KEYPOINTS = 2048
INPUTS = ("image", "threshold", "max_keypoints")
OUTPUTS = ("keypoints", "scores", "descriptors", "counts")
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
    _check_installed()
    graph = _Graph(model).eval()
    # Two images, as a batch of one would be taken for a constant.
    image = torch.zeros(2, 3, 4 * MIN_SIDE, 5 * MIN_SIDE)
    inputs = image, torch.tensor(model.detection.threshold), torch.tensor(MAX_KEYPOINTS)
    any_size = torch.export.Dim.DYNAMIC
    with torch.no_grad(), _quiet():
        traced = torch.export.export(
            graph,
            inputs,
            dynamic_shapes=({0: any_size, 2: any_size, 3: any_size}, None, None),
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )
        program = torch.onnx.export(
            traced,
            dynamo=True,
            opset_version=OPSET,
            input_names=INPUTS,
            output_names=OUTPUTS,
            verbose=False,
        )
    assert program is not None
    _set_defaults(program, dict(zip(INPUTS[1:], inputs[1:], strict=True)))
    _name_sizes(program)
    program.model.metadata_props.update(metadata(model, license))
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

    def forward(self, image: Tensor, threshold: Tensor, max_keypoints: Tensor) -> tuple[Tensor, ...]:
        maps = self.model.net(image)
        logits = maps.logits[:, 0]
        keypoints, scores, counts = detect_padded(logits, self.model.detection, threshold, max_keypoints)
        return keypoints, scores, self.model.describe(maps, keypoints), counts


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

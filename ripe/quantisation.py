"""Exported files of `compact` in eight bits, for processors that are faster at it (VNNI, ARM's dot product).

The convolutions of strides 4 to 16, seven tenths of the network's arithmetic, become int8 (`onnxruntime.quantization`,
QDQ format): weights by channel, activations by ranges that photos show. What places keypoints stays in float32: the two
finest maps, the heads of the scores, detection; and the descriptors' layers. Eight bits at stride 2 are less accurate
and, without VNNI, slower (docs/benchmarks.md).
"""

import hashlib
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ripe.files import check_writable, replacing
from ripe.photos import check_size, read_image

if TYPE_CHECKING:
    from onnx import ModelProto

PHOTOS = 200
LONG_SIDE = 640
QUANTISED = tuple(f"model.net.stages.{stage}." for stage in (2, 3, 4))
"""How the names of the weights begin that become int8."""
POOLING = "model.net.stages.2.0."
"""Not of these: it would round the map of stride 2 for all that read it."""
OPERATIONS = ("Conv", "Relu", "AveragePool")

logger = logging.getLogger(__name__)


def quantise(source: str | Path, path: str | Path, photos: Sequence[str | Path]) -> None:
    """Write an exported file of `compact` anew with int8 convolutions; whole or not at all.

    Inputs, outputs and metadata are those of the source, but for `precision`: int8, and a hash that tells files apart
    which were calibrated by different photos.

    Args:
        source: a float32 file of `ripe.export.export`.
        path: the file to be written; replaced whole.
        photos: such as the network will see; of more than 200, every n-th is looked at, by its longer side of at most
            640 pixels. One that cannot be read is left out with a warning.

    Raises:
        ValueError: it is no such file, no photo can be read, or the packages are not installed.
        OSError: a file cannot be read or written.
    """
    check_writable(path)
    try:
        import onnx
        from google.protobuf.message import DecodeError
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    except ImportError as error:
        raise ValueError(
            f"int8 needs onnx and onnxruntime: pip install 'ripe-keypoints[export,onnx]' ({error})"
        ) from error

    try:
        model = onnx.load(source)
    except DecodeError as error:
        raise ValueError(f"{source}: damaged, or no ONNX file") from error
    about = {each.key: each.value for each in model.metadata_props}
    if about.get("name") != "compact" or "precision" in about:
        raise ValueError(f"{source}: not a float32 file of compact; only that network is known to bear eight bits")

    class Photos(CalibrationDataReader):
        """Feeds the photos; no keypoint is asked for."""

        def __init__(self) -> None:
            self.images = _images(photos[:: max(1, math.ceil(len(photos) / PHOTOS))])

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.images, None)
            return None if image is None else {"image": image, "threshold": np.array(np.inf, dtype=np.float32)}

    # What its pre-processing would do, the exporter has done.
    onnx.helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})
    with replacing(path) as temporary, _errors_only():
        quantize_static(
            model,
            temporary,
            Photos(),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,  # without VNNI, sums of two products of eight bits overflow their sixteen
            op_types_to_quantize=list(OPERATIONS),
            nodes_to_quantize=_trunk(model),
        )
        made = onnx.load(temporary)
        digest = hashlib.sha256(made.graph.SerializeToString(deterministic=True)).hexdigest()
        onnx.helper.set_model_props(made, {**about, "precision": f"int8 {digest[:8]}"})
        temporary.write_bytes(made.SerializeToString())


def _trunk(model: "ModelProto") -> list[str]:
    """Names of the nodes that become int8: convolutions, the ReLU after each, and the pooling after that, if any."""
    names, outputs = [], set[str]()
    for node in model.graph.node:  # each after those whose outputs it takes
        if node.op_type == "Conv":
            chosen = node.input[1].startswith(QUANTISED) and not node.input[1].startswith(POOLING)
        else:
            chosen = node.op_type in OPERATIONS and node.input[0] in outputs
        if chosen:
            names.append(node.name)
            outputs.add(node.output[0])
    return names


def _images(paths: Iterable[str | Path]) -> Iterator[np.ndarray]:
    """1×3×H×W float32 in 0..1 of each photo that can be used."""
    used = 0
    for path in paths:
        try:
            values = read_image(path)
            photo = Image.fromarray(values if values.dtype == np.uint8 else (values >> 8).astype(np.uint8))
            photo.thumbnail((LONG_SIDE, LONG_SIDE))
            check_size(photo.size[::-1], str(path))
        except (OSError, ValueError) as error:
            logger.warning("%s", error)
            continue
        used += 1
        yield np.asarray(photo, dtype=np.float32).transpose(2, 0, 1)[None] / 255
    if not used:
        raise ValueError("no photo to calibrate by can be read")


@contextmanager
def _errors_only() -> Iterator[None]:
    """Keep back what ONNX Runtime warns of: inputs that have a default."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    try:
        yield
    finally:
        onnxruntime.set_default_logger_severity(2)

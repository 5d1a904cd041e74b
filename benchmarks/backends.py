"""Whether every back end of this machine gives the recorded features of `compact`; prints a Markdown table.

    python benchmarks/backends.py
    python benchmarks/backends.py --record    # anew, after a change of the weights, by PyTorch's float32 on a CPU

Recorded are the best keypoints of six photos that come with this package and scikit-image. Of these, each back end
should find 99 % within 0.05 px, with descriptors of a cosine of 0.999 or more; the exit status is 1 where one that
computes in float32 does not. Back ends that are not installed are left out: ONNX Runtime, OpenVINO, a GPU.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage import data

import ripe
from ripe import runtime
from ripe.pretrained import model_settings

RECORDED = Path(__file__).with_name("backends.npz")
ASSETS = Path(ripe.__file__).parent / "assets"
KEPT, EXTRACTED = 256, 2048  # so that it does not matter which keypoints are the last of those that are extracted
NEAR, SHARE, COSINE = 0.05, 0.99, 0.999

Arrays = tuple[np.ndarray, np.ndarray]
"""Keypoints N×2 and descriptors N×D."""
Extract = Callable[[np.ndarray], Arrays]


def photos() -> dict[str, np.ndarray]:
    """H×W×3 uint8 by name."""
    found = {}
    for side in ("left", "right"):
        with Image.open(ASSETS / f"motorcycle_{side}.jpg") as image:
            found[f"motorcycle {side}"] = np.asarray(image)
    grey = {"camera": data.camera(), "brick": data.brick()}
    found |= {name: np.repeat(image[:, :, None], 3, axis=2) for name, image in grey.items()}
    return {**found, "astronaut": data.astronaut(), "coffee": data.coffee()}


def pytorch(device: str, dtype: torch.dtype) -> Extract:
    """`ripe.load`."""
    model = ripe.load(device=device, dtype=dtype)

    def extract(image: np.ndarray) -> Arrays:
        found = model.extract(image, max_keypoints=EXTRACTED)[0].numpy()
        return found["keypoints"], found["descriptors"]

    return extract


def onnx_runtime() -> Extract:
    """`ripe.runtime`."""
    model = runtime.load(threads=torch.get_num_threads())

    def extract(image: np.ndarray) -> Arrays:
        [found] = model.extract(image, max_keypoints=EXTRACTED)
        return found.keypoints, found.descriptors

    return extract


def openvino() -> Extract:
    """OpenVINO with the file of `ripe.runtime`, in float32."""
    from openvino import Core

    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = Core().compile_model(runtime.COMPACT, "CPU", options)

    def extract(image: np.ndarray) -> Arrays:
        found = compiled([image.transpose(2, 0, 1)[None].astype(np.float32) / 255])
        return found["keypoints"][0], found["descriptors"][0]

    return extract


def backends() -> dict[str, tuple[bool, Callable[[], Extract]]]:
    """Those of this machine by name: whether it computes in float32, and what makes it."""
    found: dict[str, tuple[bool, Callable[[], Extract]]] = {
        "PyTorch, CPU, float32": (True, lambda: pytorch("cpu", torch.float32)),
        "PyTorch, CPU, bfloat16": (False, lambda: pytorch("cpu", torch.bfloat16)),
    }
    if find_spec("onnxruntime"):
        found["ONNX Runtime, CPU, float32"] = (True, onnx_runtime)
    if find_spec("openvino"):
        found["OpenVINO, CPU, float32"] = (True, openvino)
    if torch.cuda.is_available():
        found["PyTorch, GPU, float32"] = (True, lambda: pytorch("cuda", torch.float32))
        found["PyTorch, GPU, float16"] = (False, lambda: pytorch("cuda", torch.float16))
    return found


def agreement(found: Arrays, recorded: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """Of each recorded keypoint, the distance to the nearest one that was found, and the cosine of its descriptor."""
    (keypoints, descriptors), (their_keypoints, their_descriptors) = found, recorded
    distance = np.linalg.norm(their_keypoints[:, None] - keypoints, axis=-1)
    nearest = distance.argmin(axis=1)
    lengths = np.linalg.norm(their_descriptors, axis=1)  # of float16
    return distance.min(axis=1), (their_descriptors * descriptors[nearest]).sum(axis=1) / lengths


def record(images: dict[str, np.ndarray]) -> None:
    """Write the file of recorded features."""
    extract = pytorch("cpu", torch.float32)
    arrays = {"weights": np.array(model_settings(ripe.load(device="cpu"))["weights"])}
    for name, image in images.items():
        keypoints, descriptors = extract(image)
        arrays[f"{name} keypoints"] = keypoints[:KEPT]
        arrays[f"{name} descriptors"] = descriptors[:KEPT].astype(np.float16)
    np.savez_compressed(RECORDED, **arrays)


def recorded(name: str) -> Arrays:
    """The recorded features of a photo."""
    with np.load(RECORDED) as arrays:
        return arrays[f"{name} keypoints"], arrays[f"{name} descriptors"].astype(np.float32)


def check(images: dict[str, np.ndarray]) -> list[str]:
    """Print the table; the names of those in float32 that differ from what is recorded."""
    print("| back end | within 0.05 px | least cosine of these | median time of an image, ms |\n|---|---|---|---|")
    differing = []
    for name, (exact, make) in backends().items():
        extract, times, parts = make(), [], []
        for photo, image in images.items():
            start = time.perf_counter()
            found = extract(image)
            times.append(1e3 * (time.perf_counter() - start))
            parts.append(agreement(found, recorded(photo)))
        distance, cosine = (np.concatenate(part) for part in zip(*parts, strict=True))
        near = distance < NEAR
        print(f"| {name} | {near.mean():.2%} | {cosine[near].min():.5f} | {statistics.median(times):.0f} |")
        if exact and (near.mean() < SHARE or cosine[near].min() < COSINE):
            differing.append(name)
    return differing


def main() -> None:
    """Record or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    images = photos()
    if arguments.record:
        record(images)
    with np.load(RECORDED) as arrays:
        weights = str(arrays["weights"])
    if weights != model_settings(ripe.load(device="cpu"))["weights"]:
        raise SystemExit(f"{RECORDED.name} is of other weights of compact: record it anew (--record)")
    if differing := check(images):
        raise SystemExit(f"not the recorded features: {', '.join(differing)}")


if __name__ == "__main__":
    main()

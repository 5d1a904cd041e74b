"""Whether every back end of this machine gives the recorded features of `compact` and matches; prints Markdown tables.

    python benchmarks/backends.py
    python benchmarks/backends.py --record    # anew, after a change of the weights, by PyTorch's float32 on a CPU

Recorded are the best keypoints of seven photos that come with this package and scikit-image. Of these, each back end
should find 99 % within 0.05 px, with descriptors of a cosine of 0.999 or more. Recorded are also the matches that the
learned matcher, of which all layers are run, finds between the recorded features of two pairs of these photos; each
back end should find 99 % of them, and no more than 1 % others, with probabilities that differ by 0.01 at most. The exit
status is 1 where one that computes in float32 does not. Back ends that are not installed are left out: ONNX Runtime,
OpenVINO, a GPU. The matcher is exported for them first, which needs onnxscript.
"""

import argparse
import statistics
import tempfile
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
from ripe.export import export_matcher
from ripe.filters import MIN_SCORE
from ripe.matchers import as_points
from ripe.pretrained import model_settings

RECORDED = Path(__file__).with_name("backends.npz")
ASSETS = Path(ripe.__file__).parent / "assets"
KEPT, EXTRACTED = 256, 2048  # so that it does not matter which keypoints are the last of those that are extracted
NEAR, SHARE, COSINE, PROBABILITY = 0.05, 0.99, 0.999, 0.01
PAIRS = (("motorcycle left", "motorcycle right"), ("coffee", "coffee turned"))

Arrays = tuple[np.ndarray, np.ndarray]
"""Keypoints N×2 and descriptors N×D; or matches K×2 and their probabilities K."""
Extract = Callable[[np.ndarray], Arrays]
Match = Callable[[runtime.Features, runtime.Features], Arrays]


def photos() -> dict[str, np.ndarray]:
    """H×W×3 uint8 by name."""
    found = {}
    for side in ("left", "right"):
        with Image.open(ASSETS / f"motorcycle_{side}.jpg") as image:
            found[f"motorcycle {side}"] = np.asarray(image)
    grey = {"camera": data.camera(), "brick": data.brick()}
    found |= {name: np.repeat(image[:, :, None], 3, axis=2) for name, image in grey.items()}
    turned = np.asarray(Image.fromarray(data.coffee()).rotate(10, Image.Resampling.BILINEAR))
    return {**found, "astronaut": data.astronaut(), "coffee": data.coffee(), "coffee turned": turned}


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


def openvino(path: Path) -> Callable:
    """A file in OpenVINO, in float32."""
    from openvino import Core

    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    return Core().compile_model(path, "CPU", options)


def openvino_extractor() -> Extract:
    """The file of `ripe.runtime`."""
    compiled = openvino(runtime.COMPACT)

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
        found["OpenVINO, CPU, float32"] = (True, openvino_extractor)
    if torch.cuda.is_available():
        found["PyTorch, GPU, float32"] = (True, lambda: pytorch("cuda", torch.float32))
        found["PyTorch, GPU, float16"] = (False, lambda: pytorch("cuda", torch.float16))
    return found


def pytorch_matcher(device: str) -> Match:
    """`ripe.load_matcher`, without early stops."""
    matcher = ripe.load_matcher(device=device)

    def match(*sides: runtime.Features) -> Arrays:
        tensors = (
            ripe.Features(*map(torch.from_numpy, (side.keypoints, side.scores, side.descriptors)), side.image_size)
            for side in sides
        )
        indices, scores = matcher.network.match(*(as_points([side], matcher.device) for side in tensors), early=False)
        kept = scores >= MIN_SCORE
        return indices[kept].cpu().numpy(), scores[kept].cpu().numpy()

    return match


def onnx_runtime_matcher(path: Path) -> Match:
    """`ripe.runtime.load_matcher`."""
    matcher = runtime.load_matcher(path, threads=torch.get_num_threads())

    def match(first: runtime.Features, second: runtime.Features) -> Arrays:
        found = matcher(first, second)
        return found.indices, found.scores

    return match


def openvino_matcher(path: Path) -> Match:
    """The same file; `min_score` is a constant there."""
    compiled = openvino(path)

    def match(*sides: runtime.Features) -> Arrays:
        feed = {}
        for number, side in enumerate(sides):
            feed[f"keypoints{number}"], feed[f"descriptors{number}"] = side.keypoints, side.descriptors
            feed[f"size{number}"] = np.array(side.image_size, dtype=np.float32)
        found = compiled(feed)
        return found["matches"], found["scores"]

    return match


def matchers(folder: Path) -> dict[str, Callable[[], Match]]:
    """The learned matcher in the back ends of this machine, which read it from a file in a folder; all in float32."""
    found: dict[str, Callable[[], Match]] = {"PyTorch, CPU": lambda: pytorch_matcher("cpu")}
    path = folder / "lightglue.onnx"
    if find_spec("onnxscript") and (find_spec("onnxruntime") or find_spec("openvino")):
        export_matcher(ripe.load_matcher(device="cpu"), path)
        if find_spec("onnxruntime"):
            found["ONNX Runtime, CPU"] = lambda: onnx_runtime_matcher(path)
        if find_spec("openvino"):
            found["OpenVINO, CPU"] = lambda: openvino_matcher(path)
    if torch.cuda.is_available():
        found["PyTorch, GPU"] = lambda: pytorch_matcher("cuda")
    return found


def agreement(found: Arrays, recorded: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """Of each recorded keypoint, the distance to the nearest one that was found, and the cosine of its descriptor."""
    (keypoints, descriptors), (their_keypoints, their_descriptors) = found, recorded
    distance = np.linalg.norm(their_keypoints[:, None] - keypoints, axis=-1)
    nearest = distance.argmin(axis=1)
    lengths = np.linalg.norm(their_descriptors, axis=1)  # of float16
    return distance.min(axis=1), (their_descriptors * descriptors[nearest]).sum(axis=1) / lengths


def record(images: dict[str, np.ndarray]) -> None:
    """Write the file of recorded features and matches."""
    extract, match = pytorch("cpu", torch.float32), pytorch_matcher("cpu")
    arrays = own_weights()
    for name, image in images.items():
        keypoints, descriptors = extract(image)
        arrays[f"{name} keypoints"] = keypoints[:KEPT]
        arrays[f"{name} descriptors"] = descriptors[:KEPT].astype(np.float16)
    for pair in PAIRS:
        matches, scores = match(*(features(arrays, name, images[name]) for name in pair))
        arrays |= {f"{pair} matches": matches, f"{pair} scores": scores}
    np.savez_compressed(RECORDED, **arrays)


def own_weights() -> dict[str, np.ndarray]:
    """Hashes of the weights of extractor and matcher that come with the package."""
    matcher = ripe.load_matcher(device="cpu").settings()["matcher_weights"]
    return {"weights": np.array(model_settings(ripe.load(device="cpu"))["weights"]), "matcher": np.array(matcher)}


def recorded(arrays: dict[str, np.ndarray], name: str) -> Arrays:
    """The recorded keypoints and descriptors of a photo."""
    return arrays[f"{name} keypoints"], arrays[f"{name} descriptors"].astype(np.float32)


def features(arrays: dict[str, np.ndarray], name: str, image: np.ndarray) -> runtime.Features:
    """The same as a matcher takes them."""
    keypoints, descriptors = recorded(arrays, name)
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)  # of float16
    height, width = image.shape[:2]
    return runtime.Features(keypoints, np.zeros(len(keypoints), dtype=np.float32), descriptors, (width, height))


def check(images: dict[str, np.ndarray], arrays: dict[str, np.ndarray]) -> list[str]:
    """Print the table; the names of those in float32 that differ from what is recorded."""
    print("| back end | within 0.05 px | least cosine of these | median time of an image, ms |\n|---|---|---|---|")
    differing = []
    for name, (exact, make) in backends().items():
        extract, times, parts = make(), [], []
        for photo, image in images.items():
            start = time.perf_counter()
            found = extract(image)
            times.append(1e3 * (time.perf_counter() - start))
            parts.append(agreement(found, recorded(arrays, photo)))
        distance, cosine = (np.concatenate(part) for part in zip(*parts, strict=True))
        near = distance < NEAR
        print(f"| {name} | {near.mean():.2%} | {cosine[near].min():.5f} | {statistics.median(times):.0f} |")
        if exact and (near.mean() < SHARE or cosine[near].min() < COSINE):
            differing.append(name)
    return differing


def check_matchers(images: dict[str, np.ndarray], arrays: dict[str, np.ndarray]) -> list[str]:
    """The same of the learned matcher."""
    print("\n| matcher | recorded matches found | others | largest difference of a probability |\n|---|---|---|---|")
    differing = []
    with tempfile.TemporaryDirectory() as folder:
        for name, make in matchers(Path(folder)).items():
            match, same, wanted, others, worst = make(), 0, 0, 0, 0.0
            for pair in PAIRS:
                found = as_dict(match(*(features(arrays, photo, images[photo]) for photo in pair)))
                expected = as_dict((arrays[f"{pair} matches"], arrays[f"{pair} scores"]))
                shared = found.keys() & expected.keys()
                worst = max([worst, *(abs(found[join] - expected[join]) for join in shared)])
                same, wanted, others = same + len(shared), wanted + len(expected), others + len(found) - len(shared)
            print(f"| {name} | {same} of {wanted} | {others} | {worst:.5f} |")
            if min(same, wanted - others) < SHARE * wanted or worst > PROBABILITY:
                differing.append(f"{name}'s matcher")
    return differing


def as_dict(matches: Arrays) -> dict[tuple[int, int], float]:
    """Probabilities by joined keypoints."""
    return {(int(first), int(second)): float(score) for (first, second), score in zip(*matches, strict=True)}


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
    with np.load(RECORDED) as file:
        arrays = dict(file)
    if any(arrays.get(name) != own for name, own in own_weights().items()):
        raise SystemExit(f"{RECORDED.name} is of other weights: record it anew (--record)")
    if differing := check(images, arrays) + check_matchers(images, arrays):
        raise SystemExit(f"not what is recorded: {', '.join(differing)}")


if __name__ == "__main__":
    main()

"""Lists of pairs, `pairs.json` and the other files that name pairs of photos."""

import json

import numpy as np
from harness import Provider, pick, plain, refusing, run, scratch, watched
from PIL import Image

with watched():
    from ripe.data.photo_pairs import read_pairs
    from ripe.data.sets import megadepth
    from ripe.evaluation.benchmarks import annotated, hpatches, imw2020, megadepth1500
    from ripe.pair_lists import read_pair_list

FOLDER = scratch()
LIST = FOLDER / "pairs.txt"
JSON = FOLDER / "pairs.json"
INDEX = FOLDER / "dataset.json"
SEQUENCE = FOLDER / "v_one"
SEQUENCE.mkdir()
Image.new("L", (40, 30)).save(SEQUENCE / "1.ppm")
Image.new("L", (40, 30)).save(FOLDER / "a.png")
MATRIX = [[1, 0, 3], [0, 1, 4], [0, 0, 1]]
POINTS = [[0, 0], [20, 0], [20, 30], [0, 30], [7, 9], [3, 21], [15, 4], [11, 11]]
ENTRY = {
    "name": "one",
    "image0": "a.png",
    "image1": "a.png",
    "H": MATRIX,
    "points0": POINTS,
    "points1": POINTS,
    "K0": [[50, 0, 20], [0, 50, 15], [0, 0, 1]],
    "K1": [[50, 0, 20], [0, 50, 15], [0, 0, 1]],
    "T_0to1": [[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
    "size0": [40, 30],
}
MINED = {"matches": 9, "inliers": 5, "planar": 3, "size0": [4, 3], "size1": [4, 3], "homography": MATRIX}
SCENE = {"image_path": ".", "calib_path": ".", "images": ["a", "b"], "tuples": [[0, 1]]}
WORDS = (*ENTRY, "pairs", "model", "homography", "fundamental", "pose", *MINED, *SCENE, "0001")


def entry(provider: Provider, whole: dict) -> object:
    """An entry as it should be, but for some of its values."""
    changed = dict(whole)
    for _ in range(provider.ConsumeIntInRange(0, 3)):
        key = pick(provider, sorted(whole))
        match provider.ConsumeIntInRange(0, 3):
            case 0:
                changed.pop(key, None)
            case 1 if isinstance(whole[key], list):
                numbers = np.array(whole[key], dtype=object)
                if numbers.size:
                    numbers.flat[provider.ConsumeIntInRange(0, numbers.size - 1)] = plain(provider, WORDS, 1)
                changed[key] = numbers.tolist()
            case _:
                changed[key] = plain(provider, WORDS)
    return changed if provider.ConsumeIntInRange(0, 15) else plain(provider, WORDS)


def document(provider: Provider, content: object) -> bytes:
    """A JSON document, with bytes of its own now and then."""
    text = json.dumps(content).encode()
    return text if provider.ConsumeIntInRange(0, 9) else provider.ConsumeBytes(60) + text


def target(provider: Provider) -> None:
    """One file of each kind."""
    LIST.write_bytes(provider.ConsumeBytes(provider.ConsumeIntInRange(0, 60)))
    with refusing(LIST):
        pairs = read_pair_list(LIST)
        assert pairs
        assert all(one != other for one, other in pairs)
    model = pick(provider, ("homography", "fundamental", "pose", "other"))
    entries = [entry(provider, ENTRY) for _ in range(provider.ConsumeIntInRange(0, 2))]
    JSON.write_bytes(document(provider, {"model": model, "pairs": entries}))
    with refusing(FOLDER):
        found = annotated.read_annotated(FOLDER)
        assert len(found.pairs) == len(entries)
        found.fingerprint()
    mined = entry(provider, {**MINED, "image0": "s/a.png", "image1": "s/b.png"})
    JSON.write_bytes(document(provider, [mined]))
    with refusing(JSON):
        assert all(isinstance(pair.size0[0], int) and pair.scene is not None for pair in read_pairs(JSON))
    INDEX.write_bytes(document(provider, {"0001": entry(provider, SCENE)}))
    for read in (imw2020.read, lambda folder: megadepth.read(folder, 5, 0)):
        with refusing(INDEX, FOLDER):
            read(FOLDER)
    text = " ".join(str(plain(provider, ("0", "1", "nan", "#")))[:40] for _ in range(9))
    for name in ("H_1_2", "H_1_3", "H_1_4", "H_1_5", "H_1_6"):
        (SEQUENCE / name).write_text(text, errors="replace")
    with refusing(SEQUENCE):
        hpatches.read(FOLDER)
    (FOLDER / "pairs_calibrated.txt").write_bytes(provider.ConsumeBytes(400))
    with refusing(FOLDER):
        megadepth1500.read(FOLDER)


if __name__ == "__main__":
    run(target)

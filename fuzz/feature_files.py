"""Feature and match files, HDF5 and npz: of any structure, and damaged."""

import io
import math
import zipfile
from contextlib import suppress
from typing import Any

import h5py
import numpy as np
from harness import Provider, pick, refusing, run, scratch, spoilt, watched

with watched():
    import torch

    import ripe
    from ripe import checks
    from ripe.storage import FeatureFile, FeatureReader, MatchFile, read_features, read_matches

FOLDER = scratch()
FILE = FOLDER / "stored.h5"
ARRAYS = FOLDER / "features.npz"
NAMES = ("a.jpg", "sub/b.jpg", "c")
PAIRS = [("a.jpg", "sub/b.jpg"), ("c", "a.jpg")]
PLACES = ("a.jpg", "sub/b.jpg", "c", "a.jpg/sub-b.jpg", "c/a.jpg", "a.jpg/c", "/")
KEYS = ("keypoints", "scores", "keypoint_scores", "descriptors", "image_size", "scales", "matches0", "matching_scores0")
NOTES = ("name0", "name1", "features0", "model", "weights", "max_keypoints", "matcher", "verdict", "photo_bytes")
DTYPES = ("<f4", "<f8", ">f4", "<f2", "<i8", "<i2", "<u8", "u1", "?", "<c8", "S3", "O", "V5", "<f4,<i2")
SETTINGS = {"model": "compact", "weights": "0", "max_keypoints": 5}


def good() -> dict[str, np.ndarray]:
    """What is stored of an image with five keypoints."""
    return {
        "keypoints": np.arange(10, dtype=np.float32).reshape(5, 2),
        "scores": np.arange(5, dtype=np.float32)[::-1],
        "descriptors": np.eye(8, 5, dtype=np.float32),
        "image_size": np.array([64, 48]),
        "scales": np.ones(5, dtype=np.float32),
        "matches0": np.array([0, -1, 2, 1, -1], dtype=np.int16),
        "matching_scores0": np.ones(5, dtype=np.float16),
    }


def value(provider: Provider, key: str) -> Any:
    """What is stored under a name: what should be, or an array of another kind."""
    if provider.ConsumeBool():
        return good()[key if key in good() else "scores"]
    shape = [pick(provider, (0, 1, 2, 3, 5, 5, 8)) for _ in range(provider.ConsumeIntInRange(0, 3))]
    dtype = np.dtype(pick(provider, DTYPES))
    if dtype.kind == "O":
        return np.full(shape, provider.ConsumeUnicodeNoSurrogates(4).replace("\0", ""), dtype=object)
    fill = pick(provider, (0, 1, -1, math.nan, math.inf, 1e300, 2**40))
    with np.errstate(all="ignore"):
        return np.full(shape, fill).astype(dtype) if dtype.names is None else np.zeros(shape, dtype)


def attribute(provider: Provider) -> Any:
    """The value of an attribute."""
    kinds = ("a.jpg", "sub/b.jpg", "c", "compact", "none", 5, 0.5, np.array([1, 2]), np.array(["x", "y"], "S1"))
    chosen = pick(provider, (*kinds, b"\xff", h5py.Empty("f4")))
    return provider.ConsumeUnicodeNoSurrogates(4).replace("\0", "") if provider.ConsumeBool() else chosen


def fill(provider: Provider, file: h5py.File) -> None:
    """Groups, data sets, links and attributes."""
    for _ in range(provider.ConsumeIntInRange(0, 14)):
        place, key = pick(provider, PLACES), pick(provider, KEYS)
        group = file.require_group(place)
        match provider.ConsumeIntInRange(0, 9):
            case 0:
                group[key] = pick(
                    provider, (h5py.SoftLink("/nowhere"), h5py.SoftLink("/"), h5py.ExternalLink("other.h5", "/"))
                )
            case 1:
                group.attrs[pick(provider, NOTES)] = attribute(provider)
            case 2:
                group.create_group(key)
            case 3:
                rows = pick(provider, (5, 10**6, 10**9, 10**12))
                group.create_dataset(key, (rows, 2), "f4", chunks=(1000, 2), compression="gzip")
            case 4:
                group[key] = h5py.Empty("f4")
            case 5:
                group.create_dataset(key, (10**12,), "f4", external=[("/etc/hostname", 0, h5py.h5f.UNLIMITED)])
            case 6:
                for name, values in good().items():
                    group[name] = values
            case _:
                group[key] = value(provider, key)


def made(provider: Provider) -> bytes:
    """An HDF5 file of any structure."""
    with h5py.File("made", "w", driver="core", backing_store=False) as file:
        file.attrs.update(SETTINGS)
        with suppress(TypeError, ValueError, OSError, KeyError, RuntimeError):  # what HDF5 does not hold
            fill(provider, file)
        file.flush()
        return file.id.get_file_image()


def read_hdf5() -> None:
    """All that reads such files."""
    with refusing(FILE, *NAMES):
        for arrays in read_features(FILE).values():
            assert all(isinstance(array, np.ndarray) for array in arrays.values())
    with refusing(FILE), FeatureReader(FILE) as reader:
        assert all(isinstance(key, str) for key in reader.settings)
        for name in (*reader.names(), *NAMES):
            with refusing(FILE):
                try:
                    found = reader.read(name)
                    assert len(reader.identity(name)) == 16
                except KeyError:
                    continue  # as documented: no such image
                checks.features(found, "found")
                assert found.keypoints.dtype == torch.float32
    with refusing(FILE):
        for _, matches in read_matches(FILE, PAIRS):
            assert matches.dtype == np.int64
            assert matches.shape[1:] == (2,)
            assert (matches >= 0).all()
    before = FILE.read_bytes()
    for kind, settings in ((FeatureFile, SETTINGS), (MatchFile, {"matcher": "mutual", **SETTINGS})):
        with refusing(FILE):
            with kind(FILE, settings) as store:
                if isinstance(store, MatchFile):
                    store.check_distinct(PAIRS)
                    assert store.holds(*PAIRS[0]) in (True, False)
                else:
                    assert store.holds("a.jpg", {"photo_bytes": 5}) in (True, False)
            assert FILE.read_bytes() == before


def npz(provider: Provider) -> bytes:
    """A file of arrays with the names of `Features`."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", pick(provider, (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for key in KEYS[:6]:
            if provider.ConsumeIntInRange(0, 7):
                array = io.BytesIO()
                values = good().get(key, good()["scores"]).T if provider.ConsumeBool() else value(provider, key)
                try:
                    np.save(array, values, allow_pickle=True)
                except ValueError:
                    continue
                archive.writestr(f"{key}.npy", spoilt(provider, array.getvalue(), 2))
    return content.getvalue()


def target(provider: Provider) -> None:
    """One file of either kind."""
    match provider.ConsumeIntInRange(0, 3):
        case 0:
            FILE.write_bytes(made(provider))
            read_hdf5()
        case 1:
            FILE.write_bytes(spoilt(provider, made(provider)))
            read_hdf5()
        case 2:
            ARRAYS.write_bytes(npz(provider))
            with refusing(ARRAYS):
                checks.features(ripe.load_features(ARRAYS), "loaded")
        case _:
            ARRAYS.write_bytes(spoilt(provider, npz(provider)))
            with refusing(ARRAYS):
                checks.features(ripe.load_features(ARRAYS), "loaded")


if __name__ == "__main__":
    run(target)

"""Features of many images in one HDF5 file of hloc's layout, written so that no interruption can damage it.

HDF5 files do not survive a process that is killed while it writes. New features therefore go to small files in a
folder `<file>.parts`, each written whole; `FeatureFile.merge` brings them into the file, which is replaced at once.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from secrets import token_hex
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np

from ripe.features import Features
from ripe.files import replacing

ABSENT = "none"


class FeatureFile:
    """An HDF5 file under construction: one group for each image, as hloc reads it.

    Args:
        path: the file. If it or its parts exist, they are continued.
        settings: what the features depend on; kept as attributes of the file. None is stored as "none".

    Raises:
        ValueError: the file is not ours, or was begun with other settings.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.parts = self.path.with_name(self.path.name + ".parts")
        self.settings = {key: ABSENT if value is None else value for key, value in settings.items()}
        self.done: set[str] = set()
        for existing in self._existing():
            with _open(existing) as file:
                _check_settings(file, self.settings, self.path)
                self.done.update(_image_names(file))

    def add(self, features: Mapping[str, Features], uncertainties: Mapping[str, float]) -> None:
        """Store the features of some images, all of them or none.

        Args:
            features: by image name; slashes in a name make nested groups, as in hloc.
            uncertainties: by image name; the keypoints' standard deviation in pixels of the original image.
        """
        self.parts.mkdir(exist_ok=True)
        with replacing(self.parts / f"{token_hex(8)}.h5") as temporary, h5py.File(temporary, "w") as file:
            file.attrs.update(self.settings)
            for name, image_features in features.items():
                _write(file.create_group(name), image_features, uncertainties[name])
        self.done.update(features)

    def merge(self) -> None:
        """Bring all parts into the file and remove them."""
        parts = sorted(self.parts.glob("*.h5"))
        if parts:
            merged = self.parts / "merged.tmp"
            merged.unlink(missing_ok=True)
            if self.path.is_file():
                shutil.copyfile(self.path, merged)
            with h5py.File(merged, "a") as file:
                file.attrs.update(self.settings)
                for part in parts:
                    _copy_images(part, file)
            merged.replace(self.path)
        shutil.rmtree(self.parts, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Merge, also after an error or Ctrl-C: what is done is kept in the file."""
        self.merge()

    def _existing(self) -> Iterator[Path]:
        if self.path.exists():
            yield self.path
        yield from sorted(self.parts.glob("*.h5"))


def read_features(path: str | Path, names: Sequence[str] | None = None) -> dict[str, dict[str, np.ndarray]]:
    """The data sets of some (or all) images of a feature file: name to keypoints, scores, descriptors, image_size."""
    with _open(Path(path)) as file:
        wanted = sorted(_image_names(file)) if names is None else names
        return {name: {key: data[()] for key, data in file[name].items()} for name in wanted}


def _open(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path}: not an HDF5 file, or a damaged one") from error


def _check_settings(file: h5py.File, settings: Mapping[str, Any], path: Path) -> None:
    stored = {key: file.attrs.get(key) for key in settings}
    if all(value is None for value in stored.values()):
        raise ValueError(f"{path}: exists and was not begun by `ripe extract`; choose another file")
    differing = [f"{key} {stored[key]} there, {settings[key]} now" for key in settings if stored[key] != settings[key]]
    if differing:
        raise ValueError(
            f"{path}: was begun with other settings ({'; '.join(differing)}); repeat those, or choose another file"
        )


def _image_names(file: h5py.File) -> list[str]:
    names: list[str] = []

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Group) and "keypoints" in item:
            names.append(name)

    file.visititems(visit)
    return names


def _write(group: h5py.Group, features: Features, uncertainty: float) -> None:
    group["keypoints"] = features.keypoints.cpu().numpy().astype(np.float32)
    group["keypoints"].attrs["uncertainty"] = uncertainty
    group["scores"] = features.scores.cpu().numpy().astype(np.float32)
    group["descriptors"] = np.ascontiguousarray(features.descriptors.cpu().numpy().astype(np.float32).T)
    group["image_size"] = np.array(features.image_size, dtype=np.int64)


def _copy_images(part: Path, target: h5py.File) -> None:
    with h5py.File(part, "r") as source:
        for name in _image_names(source):
            if name not in target:
                source.copy(name, target, name)

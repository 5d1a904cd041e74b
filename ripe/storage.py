"""Features of many images, and matches of many pairs, in HDF5 files of hloc's layout that no interruption can damage.

HDF5 files do not survive a process that is killed while it writes. New groups therefore go to small files in a folder
`<file>.parts`, each written whole; `merge` brings them into the file, which is replaced at once.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from secrets import token_hex
from types import TracebackType
from typing import Any, ClassVar, Self

import h5py
import numpy as np
import torch
from torch import Tensor

from ripe.features import Features, Matches
from ripe.files import replacing

ABSENT = "none"
NO_MATCH = -1


class GroupFile:
    """An HDF5 file under construction, made of groups of data sets that are each written once.

    Args:
        path: the file. If it or its parts exist, they are continued.
        settings: what the content depends on; kept as attributes of the file. None is stored as "none".

    Raises:
        ValueError: the file is not ours, or was begun with other settings.
    """

    marker: ClassVar[str]  # the data set by which a group is known
    command: ClassVar[str]  # what makes such files

    def __init__(self, path: str | Path, settings: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.parts = self.path.with_name(self.path.name + ".parts")
        self.settings = {key: ABSENT if value is None else value for key, value in settings.items()}
        self.done: set[str] = set()
        for existing in self._existing():
            with _open(existing) as file:
                self._check_settings(file)
                self.done.update(_group_names(file, self.marker))

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
                    self._copy_groups(part, file)
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

    def _check_settings(self, file: h5py.File) -> None:
        stored = {key: file.attrs.get(key) for key in self.settings}
        if all(value is None for value in stored.values()):
            raise ValueError(f"{self.path}: exists and was not begun by `{self.command}`; choose another file")
        differing = [
            f"{key} {stored[key]} there, {now} now" for key, now in self.settings.items() if stored[key] != now
        ]
        if differing:
            raise ValueError(
                f"{self.path}: was begun with other settings ({'; '.join(differing)}); repeat those, or choose another "
                "file"
            )

    def _add(self, writers: Mapping[str, Callable[[h5py.Group], None]]) -> None:
        """Store some groups, all of them or none; each writer fills one."""
        self.parts.mkdir(exist_ok=True)
        with replacing(self.parts / f"{token_hex(8)}.h5") as temporary, h5py.File(temporary, "w") as file:
            file.attrs.update(self.settings)
            for name, write in writers.items():
                write(file.create_group(name))
        self.done.update(writers)

    def _copy_groups(self, part: Path, target: h5py.File) -> None:
        with h5py.File(part, "r") as source:
            for name in _group_names(source, self.marker):
                if name not in target:
                    source.copy(name, target, name)


class FeatureFile(GroupFile):
    """A file of features under construction: one group for each image, as hloc reads it; see `GroupFile`."""

    marker = "keypoints"
    command = "ripe extract"

    def add(
        self,
        features: Mapping[str, Features],
        uncertainties: Mapping[str, float],
        notes: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Store the features of some images, all of them or none.

        Args:
            features: by image name; slashes in a name make nested groups, as in hloc.
            uncertainties: by image name; the keypoints' standard deviation in pixels of the original image.
            notes: by image name; attributes of the image's group.
        """
        notes = notes or {}
        self._add(
            {
                name: partial(_write_features, found, uncertainties[name], notes.get(name, {}))
                for name, found in features.items()
            }
        )


class MatchFile(GroupFile):
    """A file of matches under construction: one group for each pair of images, as hloc reads it; see `GroupFile`."""

    marker = "matches0"
    command = "ripe match --pairs"

    def holds(self, name0: str, name1: str) -> bool:
        """Whether the two images' matches are there, in either order."""
        return pair_group(name0, name1) in self.done or pair_group(name1, name0) in self.done

    def add(self, matches: Mapping[tuple[str, str], tuple[Matches, int, int]]) -> None:
        """Store the matches of some pairs, all of them or none.

        Args:
            matches: by the names of both images; with the matches, how many keypoints each image has.
        """
        self._add({pair_group(*pair): partial(_write_matches, *found) for pair, found in matches.items()})


class FeatureReader:
    """A feature file, ours or hloc's, opened for reading; used in a `with` statement.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it is no HDF5 file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path}: no such file")
        self._file = _open(self.path)

    @property
    def settings(self) -> dict[str, Any]:
        """What the features depend on: the file's attributes."""
        return dict(self._file.attrs)

    def names(self) -> list[str]:
        """Names of all images, sorted."""
        return sorted(_group_names(self._file, FeatureFile.marker))

    def read(self, name: str) -> Features:
        """The features of an image, on the CPU; `KeyError` if there is no such image."""
        if name not in self._file or FeatureFile.marker not in self._file[name]:
            raise KeyError(name)
        group = self._file[name]
        scores = group["scores" if "scores" in group else "keypoint_scores"][()]
        width, height = group["image_size"][()].tolist()
        return Features(
            _as_float(group["keypoints"][()]),
            _as_float(scores),
            _as_float(group["descriptors"][()].T),
            (width, height),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()


def read_features(path: str | Path, names: Sequence[str] | None = None) -> dict[str, dict[str, np.ndarray]]:
    """The data sets of some (or all) images of a feature file: name to keypoints, scores, descriptors, image_size."""
    with _open(Path(path)) as file:
        wanted = sorted(_group_names(file, FeatureFile.marker)) if names is None else names
        return {name: {key: data[()] for key, data in file[name].items()} for name in wanted}


def read_matches(path: str | Path, pairs: Iterable[tuple[str, str]]) -> Iterator[tuple[tuple[str, str], np.ndarray]]:
    """Those pairs that the file holds, each with its K×2 int64 matches: keypoints of the first and the second image."""
    with _open(Path(path)) as file:
        for name0, name1 in pairs:
            group = file.get(pair_group(name0, name1))
            if group is not None:
                matches = group["matches0"][()].astype(np.int64)
                matched = np.flatnonzero(matches != NO_MATCH)
                yield (name0, name1), np.stack([matched, matches[matched]], axis=-1)


def pair_group(name0: str, name1: str) -> str:
    """The group in which hloc keeps the matches of two images."""
    return "/".join(name.replace("/", "-") for name in (name0, name1))


def _open(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path}: not an HDF5 file, or a damaged one") from error


def _group_names(file: h5py.File, marker: str) -> list[str]:
    names: list[str] = []

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Group) and marker in item:
            names.append(name)

    file.visititems(visit)
    return names


def _as_float(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def _write_features(features: Features, uncertainty: float, notes: Mapping[str, Any], group: h5py.Group) -> None:
    group.attrs.update(notes)
    group["keypoints"] = features.keypoints.cpu().numpy().astype(np.float32)
    group["keypoints"].attrs["uncertainty"] = uncertainty
    group["scores"] = features.scores.cpu().numpy().astype(np.float32)
    group["descriptors"] = np.ascontiguousarray(features.descriptors.cpu().numpy().astype(np.float32).T)
    group["image_size"] = np.array(features.image_size, dtype=np.int64)


def _write_matches(matches: Matches, count0: int, count1: int, group: h5py.Group) -> None:
    # hloc writes int16, in which the indices of more than 32768 keypoints do not fit; it reads either.
    kind = np.int16 if count1 <= np.iinfo(np.int16).max + 1 else np.int32
    indices = matches.indices.cpu().numpy()
    matches0 = np.full(count0, NO_MATCH, dtype=kind)
    matches0[indices[:, 0]] = indices[:, 1]
    # hloc's scores of nearest neighbours: the cosine similarity brought from -1..1 to 0..1, half precision.
    scores0 = np.zeros(count0, dtype=np.float16)
    scores0[indices[:, 0]] = (matches.scores.cpu().numpy() + 1) / 2
    group["matches0"], group["matching_scores0"] = matches0, scores0

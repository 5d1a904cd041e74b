"""Features of many images, and matches of many pairs, in HDF5 files of hloc's layout that no interruption can damage.

HDF5 files do not survive a process that is killed while it writes. New groups therefore go to small files in a folder
`<file>.parts`, each written whole; `merge` brings them into the file, which is replaced at once. One process at a time
writes a file (see `ripe.files.lock`).

Each group's attributes say what it was made of, so that what has changed since is made anew: a photo's (see
`ripe.extract_many`), and the names and features of a pair's images. hloc, which reads the data sets only, ignores them.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import h5py
import numpy as np

from ripe.files import lock, locked, replacing, unlock
from ripe.filters import NO_MATCH

if TYPE_CHECKING:
    from torch import Tensor

    from ripe import runtime
    from ripe.features import Features, Matches

ABSENT = "none"
OPTIONS = {
    "model": "--model",
    "weights": "weights of --model",
    "baseline": "--baseline",
    "precision": "--precision",
    "max_keypoints": "--max-keypoints",
    "threshold": "--threshold",
    "max_side": "--resize",
    "scales": "--scales",
    "resizing": "--resize",
    "matcher": "matches by --matcher, --ratio, --min-similarity, --min-score, --rotations, --geometry:",
    "matcher_weights": "weights of --matcher",
}
"""What the command line calls the settings of a file."""

Pair = tuple[str, str]
"""Names of two images."""


class GroupFile:
    """An HDF5 file under construction, made of groups of data sets that are each written once.

    It is this process's alone from here to the end of a `with` statement; another one that writes it is waited for.

    Args:
        path: the file. If it or its parts exist, they are continued.
        settings: what the content depends on; kept as attributes of the file. None is stored as "none".
        overwrite: start anew; what exists is removed, if it is ours.

    Attributes:
        done: the groups that are there, each with its attributes.

    Raises:
        ValueError: the file is not ours, was begun with other settings, or is being written by this process.
    """

    marker: ClassVar[str]  # the data set by which a group is known
    command: ClassVar[str]  # what makes such files

    def __init__(self, path: str | Path, settings: Mapping[str, Any], *, overwrite: bool = False) -> None:
        self.path = Path(path)
        self.parts = _parts_of(self.path)
        self.settings = {key: ABSENT if value is None else value for key, value in settings.items()}
        self.done: dict[str, dict[str, Any]] = {}
        self._forgotten: set[str] = set()
        self._lock = lock(self.path)
        try:
            for existing in self._existing():
                with open_hdf5(existing) as file:
                    self._check_ours(file)
                    if not overwrite:
                        self._check_settings(file)
                        self.done.update(_groups(file, self.marker))
            if overwrite:
                _remove(self.path)
        except BaseException:
            unlock(self._lock)
            raise

    def forget(self, name: str) -> None:
        """Leave a group out of the file from the next `merge` on, as it is no longer true."""
        del self.done[name]
        self._forgotten.add(name)

    def merge(self) -> None:
        """Bring all parts into the file and remove them."""
        if self._part_files() or self._forgotten:
            self.parts.mkdir(exist_ok=True)
            merged = self.parts / "merged.tmp"
            merged.unlink(missing_ok=True)
            with _errors_named(self.path):
                self._check_space()
                if self.path.is_file():
                    shutil.copyfile(self.path, merged)
                with h5py.File(merged, "a") as file:
                    file.attrs.update(self.settings)
                    for name in self._forgotten:
                        if name in file:
                            del file[name]
                    for part in self._part_files():
                        self._copy_groups(part, file)
                merged.replace(self.path)
        shutil.rmtree(self.parts, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Merge, also after an error or Ctrl-C: what is done is kept in the file. Without an error there is a file."""
        try:
            self.merge()
            if kind is None and not self.path.exists():
                with replacing(self.path) as temporary, h5py.File(temporary, "w") as file:
                    file.attrs.update(self.settings)
        finally:
            unlock(self._lock)

    def _existing(self) -> Iterator[Path]:
        if self.path.exists():
            yield self.path
        yield from self._part_files()

    def _part_files(self) -> list[Path]:
        """The parts in the order in which they were written: of a group that is in two, the later one counts."""
        return sorted(self.parts.glob("*.h5"))

    def _check_ours(self, file: h5py.File) -> None:
        holds_matches = "matcher" in file.attrs
        if not self.settings.keys() & file.attrs.keys() or holds_matches != ("matcher" in self.settings):
            raise ValueError(f"{self.path}: exists and was not begun by `{self.command}`; choose another file")

    def _check_settings(self, file: h5py.File) -> None:
        stored = {key: file.attrs.get(key, ABSENT) for key in self.settings}
        differing = [
            f"{OPTIONS.get(key, key)} {stored[key]} there, {now} now"
            for key, now in self.settings.items()
            if stored[key] != now
        ]
        if differing:
            raise ValueError(
                f"{self.path}: was begun with other settings ({'; '.join(differing)}); repeat those, choose another "
                "file, or start anew (--overwrite)"
            )

    def _add(self, writers: Mapping[str, Callable[[h5py.Group], None]]) -> None:
        """Store some groups, all of them or none; each writer fills one."""
        self.parts.mkdir(exist_ok=True)
        part = self.parts / f"{len(self._part_files()):08}.h5"
        attributes: dict[str, dict[str, Any]] = {}
        # Made in memory, as HDF5 that writes to a full disk prints thousands of lines and may crash.
        with h5py.File(str(part), "w", driver="core", backing_store=False) as file:
            file.attrs.update(self.settings)
            for name, write in writers.items():
                group = file.create_group(name)
                write(group)
                attributes[name] = dict(group.attrs)
            file.flush()
            content = file.id.get_file_image()
        with replacing(part) as temporary:
            temporary.write_bytes(content)
        self.done.update(attributes)
        self._forgotten -= attributes.keys()

    def _check_space(self) -> None:
        """`OSError` if the disk cannot hold the merged file beside what is there, before HDF5 meets its end."""
        if shutil.disk_usage(self.parts).free < sum(path.stat().st_size for path in self._existing()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _copy_groups(self, part: Path, target: h5py.File) -> None:
        with h5py.File(part, "r") as source:
            for name in _groups(source, self.marker).keys() - self._forgotten:
                if name in target:
                    del target[name]
                source.copy(name, target, name)


class FeatureFile(GroupFile):
    """A file of features under construction: one group for each image, as hloc reads it; see `GroupFile`."""

    marker = "keypoints"
    command = "ripe extract"

    def holds(self, name: str, notes: Mapping[str, Any]) -> bool:
        """Whether an image's features are there, with these notes; what was stored without a note has any."""
        stored = self.done.get(name)
        return stored is not None and all(stored.get(key, value) == value for key, value in notes.items())

    def add(
        self,
        features: Mapping[str, Features | runtime.Features],
        uncertainties: Mapping[str, float],
        notes: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Store the features of some images, all of them or none, in place of older ones.

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

    def holds(self, name0: str, name1: str, identities: Mapping[str, str] | None = None) -> bool:
        """Whether the two images' matches are there, in either order, and made of these features.

        Args:
            name0: an image.
            name1: another one.
            identities: of the images' features (see `FeatureReader.identity`); an image without one has any.
        """
        names = self._stored_order(name0, name1)
        if names is None:
            return False
        stored, now = self.done[pair_group(*names)], identities or {}
        both = [(stored.get(f"features{side}"), now.get(name)) for side, name in enumerate(names)]
        return all(None in pair or pair[0] == pair[1] for pair in both)

    def add(
        self,
        matches: Mapping[Pair, tuple[Matches, int, int]],
        identities: Mapping[str, str] | None = None,
        notes: Mapping[Pair, Mapping[str, Any]] | None = None,
    ) -> None:
        """Store the matches of some pairs, all of them or none, in place of older ones of the same two images.

        Args:
            matches: by the names of both images; with the matches, how many keypoints each image has.
            identities: by image name, which features were matched (see `FeatureReader.identity`).
            notes: attributes that are stored with the matches of a pair.
        """

        writers = {}
        for (name0, name1), (found, count0, count1) in matches.items():
            names = name0, name1
            noted = dict((notes or {}).get(names, {}))
            if self._stored_order(*names) == (name1, name0):
                names, found = (name1, name0), found.reversed()
                count0, count1 = count1, count0
            known = [(identities or {}).get(name) for name in names]
            noted |= {f"name{side}": name for side, name in enumerate(names)}
            noted |= {f"features{side}": identity for side, identity in enumerate(known) if identity is not None}
            writers[pair_group(*names)] = partial(_write_matches, self._as_shares(found), count0, count1, noted)
        self._add(writers)

    def _as_shares(self, matches: Matches) -> Matches:
        """Scores in 0..1, as hloc has them: a learned matcher's as they are, cosine similarities brought there."""
        learned = "matcher_weights" in self.settings
        return matches if learned else replace(matches, scores=(matches.scores + 1) / 2)

    def notes(self, name0: str, name1: str) -> Mapping[str, Any]:
        """The attributes that are stored with the matches of two images; none if there are no matches of theirs."""
        names = self._stored_order(name0, name1)
        return {} if names is None else self.done[pair_group(*names)]

    def check_distinct(self, pairs: Iterable[Pair]) -> None:
        """`ValueError` if the groups of two pairs, wanted or stored ones, would be the same (see `check_distinct`)."""
        stored = [(notes["name0"], notes["name1"]) for notes in self.done.values() if "name0" in notes]
        check_distinct([*stored, *pairs])

    def _stored_order(self, name0: str, name1: str) -> Pair | None:
        """The two names in the order in which their matches are stored; None if there are none."""
        for names in ((name0, name1), (name1, name0)):
            stored = self.done.get(pair_group(*names))
            if stored is not None and _belongs(stored, names):
                return names
        return None


class FeatureReader:
    """A feature file, ours or hloc's, opened for reading; used in a `with` statement.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it is no HDF5 file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file = open_hdf5(self.path)

    @property
    def settings(self) -> dict[str, Any]:
        """What the features depend on: the file's attributes."""
        return dict(self._file.attrs)

    def names(self) -> list[str]:
        """Names of all images, sorted."""
        return sorted(_groups(self._file, FeatureFile.marker))

    def read(self, name: str) -> Features:
        """The features of an image, on the CPU.

        Raises:
            KeyError: there is no such image.
            ValueError: it lacks some of its data.
        """
        from ripe.features import Features

        group = self._group(name)
        scores = "scores" if "scores" in group else "keypoint_scores"
        if absent := [key for key in (scores, "descriptors", "image_size") if key not in group]:
            raise ValueError(f"{self.path}: {name} has no {' and no '.join(absent)}")
        width, height = group["image_size"][()].tolist()
        return Features(
            _as_float(group["keypoints"][()]),
            _as_float(group[scores][()]),
            _as_float(group["descriptors"][()].T),
            (width, height),
            _as_float(group["scales"][()]) if "scales" in group else None,  # type: ignore[arg-type]
        )

    def identity(self, name: str) -> str:
        """A hash of an image's keypoints, which tells its features from others; `KeyError` without such an image."""
        return hashlib.sha256(self._group(name)["keypoints"][()].tobytes()).hexdigest()[:16]

    def _group(self, name: str) -> h5py.Group:
        if name not in self._file or FeatureFile.marker not in self._file[name]:
            raise KeyError(name)
        return self._file[name]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()


def read_features(path: str | Path, names: Sequence[str] | None = None) -> dict[str, dict[str, np.ndarray]]:
    """The data sets of some (or all) images of a feature file: name to keypoints, scores, descriptors, image_size."""
    with open_hdf5(Path(path)) as file:
        wanted = sorted(_groups(file, FeatureFile.marker)) if names is None else names
        return {name: {key: data[()] for key, data in file[name].items()} for name in wanted}


def read_matches(path: str | Path, pairs: Iterable[Pair]) -> Iterator[tuple[Pair, np.ndarray]]:
    """Those pairs that the file holds, each with its K×2 int64 matches: keypoints of the first and the second image.

    A pair that is stored the other way round is given with its columns swapped.
    """
    with open_hdf5(Path(path)) as file:
        for pair in pairs:
            for names in (pair, pair[::-1]):
                group = file.get(pair_group(*names))
                if group is not None and MatchFile.marker in group and _belongs(group.attrs, names):
                    matches = group[MatchFile.marker][()].astype(np.int64)
                    matched = np.flatnonzero(matches != NO_MATCH)
                    both = matched, matches[matched]
                    yield pair, np.stack(both if names == pair else both[::-1], axis=-1)
                    break


def stored_pairs(path: str | Path, names: Set[str]) -> dict[Pair, dict[str, Any]]:
    """The pairs of these names that a match file holds, each with what is noted beside its matches.

    Files of hloc's do not note the names, which are found by their groups.
    """
    by_group = {_flat(name): name for name in names}
    found: dict[Pair, dict[str, Any]] = {}
    with open_hdf5(Path(path)) as file:
        for group, notes in _groups(file, MatchFile.marker).items():
            first, _, second = group.partition("/")
            name0, name1 = notes.get("name0", by_group.get(first, "")), notes.get("name1", by_group.get(second, ""))
            if name0 in names and name1 in names:
                found[name0, name1] = notes
    return found


def stored_side(settings: Mapping[str, Any]) -> int | None:
    """To which longer side the photos of a feature file were shrunk; None if they were not, or if it is not known."""
    side = settings.get("max_side", ABSENT)
    return None if side == ABSENT else int(side)


def pair_group(name0: str, name1: str) -> str:
    """The group in which hloc keeps the matches of two images."""
    return f"{_flat(name0)}/{_flat(name1)}"


def check_distinct(pairs: Iterable[Pair]) -> None:
    """Check that hloc's layout has a group for each of some pairs; equal ones count once, in either order.

    Raises:
        ValueError: two pairs would share a group, as a slash in a name becomes a hyphen there; both are named.
    """
    owners: dict[frozenset[str], Pair] = {}
    for pair in pairs:
        owner = owners.setdefault(frozenset(map(_flat, pair)), pair)
        if set(owner) != set(pair):
            one, other = (" and ".join(names) for names in (owner, pair))
            raise ValueError(
                f"{one}, {other}: hloc's match files, where / becomes -, cannot tell these pairs apart; rename a photo"
            )


def check_distinct_names(names: Collection[str]) -> None:
    """The same for all pairs of these names, whichever are matched."""
    counts = Counter(map(_flat, names))
    clashing = [name for name in names if counts[_flat(name)] > 1]
    check_distinct((name, other) for name in clashing for other in names if name != other)


def discard(path: Path) -> None:
    """Remove a file under construction with its parts, as soon as no other process writes it."""
    with locked(path):
        _remove(path)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    shutil.rmtree(_parts_of(path), ignore_errors=True)


def _parts_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.parts")


def _flat(name: str) -> str:
    return name.replace("/", "-")


def _belongs(notes: Mapping[str, Any], names: Pair) -> bool:
    """Whether a pair's group is of these names in this order; one without notes, as hloc writes it, is taken to be."""
    return (notes.get("name0", names[0]), notes.get("name1", names[1])) == names


def open_hdf5(path: Path) -> h5py.File:
    """An HDF5 file, opened for reading.

    Raises:
        OSError: what the system says, such as that there is no such file.
        ValueError: it is no HDF5 file, or a damaged one.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        if error.errno is not None:  # the system's, such as of permissions or too many open files
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise ValueError(f"{path}: not an HDF5 file, or a damaged one") from error


@contextmanager
def _errors_named(path: Path) -> Iterator[None]:
    """Errors of the system in the body are given its own words, HDF5's being others, and the name of a file."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


def _groups(file: h5py.File, marker: str) -> dict[str, dict[str, Any]]:
    """The groups that hold the data set `marker`, with their attributes."""
    found: dict[str, dict[str, Any]] = {}

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Group) and marker in item:
            found[name] = dict(item.attrs)

    file.visititems(visit)
    return found


def _as_float(values: np.ndarray) -> Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def _write_features(
    features: Features | runtime.Features, uncertainty: float, notes: Mapping[str, Any], group: h5py.Group
) -> None:
    arrays = features.numpy()
    group.attrs.update(notes)
    group["keypoints"] = arrays["keypoints"].astype(np.float32)
    group["keypoints"].attrs["uncertainty"] = uncertainty
    group["scores"] = arrays["scores"].astype(np.float32)
    group["descriptors"] = np.ascontiguousarray(arrays["descriptors"].astype(np.float32).T)
    group["image_size"] = arrays["image_size"]
    group["scales"] = arrays["scales"].astype(np.float32)


def _write_matches(matches: Matches, count0: int, count1: int, notes: Mapping[str, Any], group: h5py.Group) -> None:
    group.attrs.update(notes)
    # hloc writes int16, in which the indices of more than 32768 keypoints do not fit; it reads either.
    kind = np.int16 if count1 <= np.iinfo(np.int16).max + 1 else np.int32
    partners, scores = matches.partners(count0)
    group["matches0"] = partners.cpu().numpy().astype(kind)
    group["matching_scores0"] = scores.cpu().numpy().astype(np.float16)

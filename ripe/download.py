"""Downloads that are kept: fetched once, recorded by size and SHA-256, and checked against that record ever after."""

import hashlib
import http.client
import json
import os
import urllib.error
import urllib.request
from pathlib import Path

import platformdirs
from tqdm.auto import tqdm

from ripe.files import replacing

TIMEOUT_SECONDS = 30
CHUNK_BYTES = 1 << 20


def cache_dir() -> Path:
    """Where downloads are kept: `RIPE_CACHE` if set, otherwise the user's cache folder."""
    return Path(os.environ.get("RIPE_CACHE") or platformdirs.user_cache_dir("ripe-keypoints"))


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(url: str, path: Path, *, sha256: str = "") -> None:
    """Download `url` to `path` with a progress bar, whole or not at all, and record it.

    Args:
        url: what is fetched.
        path: where it is kept; its folder is made.
        sha256: how the file's SHA-256 must begin, in hexadecimal digits.

    Raises:
        OSError: the download failed; the message says where a file fetched by hand belongs.
        ValueError: what arrived has another SHA-256; nothing is kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with replacing(path) as temporary:
            _download(url, temporary, path.name)
            if sha256:
                check_sha256(temporary, sha256, name=url)
            _record(temporary, path, url)
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
        reason = getattr(error, "reason", None) or error
        raise OSError(
            f"cannot download {url} ({reason}); fetch it by other means and put it at {path}, or give its path"
        ) from error


def check_sha256(path: Path, prefix: str, *, name: str | None = None) -> None:
    """Raise a `ValueError` that names the file, `name` if given, unless its SHA-256 begins with `prefix`."""
    found = sha256_of(path)
    if not found.startswith(prefix):
        raise ValueError(f"{name or path}: its SHA-256 is {found}, but should begin with {prefix}; not the right file")


def verify(path: Path) -> None:
    """Compare a kept file with its record; a file without one, put there by hand, is recorded now.

    Raises:
        ValueError: the file is not the one that was recorded.
    """
    record_path = _record_path(path)
    if not record_path.is_file():
        _record(path, path, "put there by hand")
        return
    try:
        record = json.loads(record_path.read_text())
        recorded = (record["size"], record["sha256"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{record_path}: damaged record; delete it and {path.name}, then load again") from error
    if (path.stat().st_size, sha256_of(path)) != recorded:
        raise ValueError(
            f"{path}: not the file that was recorded at its first use (size {recorded[0]}, SHA-256 {recorded[1]}); "
            f"if you did not change it, delete it and {record_path.name} beside it, then load again"
        )


def _download(url: str, target: Path, label: str) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "ripe-keypoints"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response, target.open("wb") as file:
        announced = response.headers.get("Content-Length")
        total = int(announced) if announced else None
        received = 0
        with tqdm(total=total, unit="B", unit_scale=True, desc=label) as progress:
            while chunk := response.read(CHUNK_BYTES):
                file.write(chunk)
                received += len(chunk)
                progress.update(len(chunk))
    if total is not None and received != total:
        raise ConnectionError(f"{received} of {total} bytes arrived")


def _record(content: Path, path: Path, url: str) -> None:
    record = {"url": url, "size": content.stat().st_size, "sha256": sha256_of(content)}
    with replacing(_record_path(path)) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n")


def _record_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")

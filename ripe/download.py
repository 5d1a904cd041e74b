"""Downloads that are kept: fetched once, recorded by size and SHA-256, and checked against that record ever after."""

import hashlib
import http
import http.client
import os
import time
import urllib.error
import urllib.request
from pathlib import Path

import platformdirs
from tqdm.auto import tqdm

from ripe.files import read_json, scratch, write_json

TIMEOUT_SECONDS = 30
CHUNK_BYTES = 1 << 20
PAGE_BYTES = 1 << 24
NETWORK_ERRORS = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError)


def cache_dir() -> Path:
    """Where downloads are kept: `RIPE_CACHE` if set, otherwise the user's cache folder."""
    return Path(os.environ.get("RIPE_CACHE") or platformdirs.user_cache_dir("ripe-keypoints"))


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(url: str, path: Path, *, sha256: str = "") -> None:
    """Download `url` to `path` with a progress bar, whole or not at all, and record it; nothing is done if it is there.

    Args:
        url: what is fetched.
        path: where it is kept; its folder is made. Another process that fetches it is waited for.
        sha256: how the file's SHA-256 must begin, in hexadecimal digits.

    Raises:
        OSError: the download failed; the message says where a file fetched by hand belongs.
        ValueError: what arrived has another SHA-256; nothing is kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with scratch(path) as folder:
            if path.is_file():
                return
            arrived = folder / path.name
            _download(url, arrived, path.name)
            if sha256:
                check_sha256(arrived, sha256, name=url)
            _record(arrived, path, url)
            arrived.replace(path)
    except NETWORK_ERRORS as error:
        raise OSError(
            f"cannot download {url} ({_reason(error)}); fetch it by other means and put it at {path}, or give its path"
        ) from error


def check_sha256(path: Path, prefix: str, *, name: str | None = None) -> None:
    """Raise a `ValueError` that names the file, `name` if given, unless its SHA-256 begins with `prefix`."""
    found = sha256_of(path)
    if not found.startswith(prefix):
        raise ValueError(f"{name or path}: its SHA-256 is {found}, but should begin with {prefix}; not the right file")


def fetch_text(url: str) -> str:
    """The text of a small page; `OSError` if it cannot be had."""
    try:
        with urllib.request.urlopen(_request(url), timeout=TIMEOUT_SECONDS) as response:
            content = response.read(PAGE_BYTES + 1)
            if len(content) > PAGE_BYTES:
                raise ConnectionError(f"more than {PAGE_BYTES} bytes; no page of ours")
            _check_whole(response, len(content))
            return content.decode("utf-8", errors="replace")
    except NETWORK_ERRORS as error:
        raise OSError(f"cannot read {url} ({_reason(error)})") from error


def fetch_resumable(
    url: str, path: Path, *, md5: str | None = None, attempts: int = 5, wait_seconds: float = 2.0
) -> None:
    """Download a large file to `path` with a progress bar; what is there of it is kept when the connection breaks.

    The part that has arrived is `<path>.part`; this call, or a later one, goes on where it ends if the server has the
    same file still (by its ETag or date) and can send the rest; otherwise it starts anew.

    Args:
        url: of the file.
        path: that it gets once it is whole.
        md5: sum of the file in hexadecimal digits, if it is known.
        attempts: how often a broken connection is tried again before giving up.
        wait_seconds: before the second attempt; doubled for each further one.

    Raises:
        OSError: the download failed; what has arrived is kept.
        ValueError: the file is not the one that `md5` belongs to; it is deleted.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    for attempt in range(attempts):
        try:
            _download_rest(url, part, path.name)
            break
        except NETWORK_ERRORS as error:
            refused = isinstance(error, urllib.error.HTTPError) and error.code < 500
            if refused or attempt + 1 == attempts:
                raise OSError(f"cannot download {url} ({_reason(error)}); run the same again to go on") from error
            time.sleep(wait_seconds * 2**attempt)
    if md5 is not None and _md5_of(part) != md5:
        part.unlink()
        _validator_path(part).unlink(missing_ok=True)
        raise ValueError(f"{url}: arrived damaged (its MD5 sum is not {md5}) and was deleted; run the same again")
    part.replace(path)
    _validator_path(part).unlink(missing_ok=True)


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
        record = read_json(record_path)
        recorded = (record["size"], record["sha256"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{record_path}: damaged record; delete it and {path.name}, then load again") from error
    if (path.stat().st_size, sha256_of(path)) != recorded:
        raise ValueError(
            f"{path}: not the file that was recorded at its first use (size {recorded[0]}, SHA-256 {recorded[1]}); "
            f"if you did not change it, delete it and {record_path.name} beside it, then load again"
        )


def _reason(error: Exception) -> str:
    """What is wrong, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _request(url: str) -> urllib.request.Request:
    return urllib.request.Request(url, headers={"User-Agent": "ripe-keypoints"})


def _download(url: str, target: Path, label: str) -> None:
    with urllib.request.urlopen(_request(url), timeout=TIMEOUT_SECONDS) as response:
        _receive(response, target, label, start=0)


def _download_rest(url: str, part: Path, label: str) -> None:
    request = _request(url)
    start = part.stat().st_size if part.exists() else 0
    validator = _validator_path(part)
    known = validator.read_text() if validator.exists() else ""
    if start and known:
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", known)  # the server sends all of it if its file has changed
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            if error.headers.get("Content-Range") == f"bytes */{start}":
                return  # all of it had arrived before
            part.unlink()
            raise ConnectionError("what had arrived does not fit the server's file") from error
        raise
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            start = 0
            part.write_bytes(b"")  # at no moment may an old part stand beside the new file's validator
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            part.unlink()
            raise ConnectionError("the server sent another part of the file than was asked for")
        etag = response.headers.get("ETag", "")
        stamp = response.headers.get("Last-Modified") if etag.startswith("W/") or not etag else etag
        if stamp:
            validator.write_text(stamp)
        else:
            validator.unlink(missing_ok=True)
        _receive(response, part, label, start)


def _receive(response: http.client.HTTPResponse, target: Path, label: str, start: int) -> None:
    """Write a response to the end of the first `start` bytes of a file; what arrives is kept if the rest does not."""
    length = _announced(response)
    total = None if length is None else start + length
    received = 0
    with (
        target.open("r+b" if start else "wb") as file,
        tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=label) as progress,
    ):
        file.seek(start)
        while chunk := response.read1(CHUNK_BYTES):
            file.write(chunk)
            received += len(chunk)
            progress.update(len(chunk))
    _check_whole(response, received)


def _announced(response: http.client.HTTPResponse) -> int | None:
    length = response.headers.get("Content-Length")
    return int(length) if length else None


def _check_whole(response: http.client.HTTPResponse, received: int) -> None:
    """`ConnectionError` unless as many bytes have arrived as the server has announced, if it has."""
    announced = _announced(response)
    if announced is not None and received != announced:
        raise ConnectionError(f"{received} of {announced} bytes arrived")


def _md5_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _validator_path(part: Path) -> Path:
    return part.with_name(part.name + ".etag")


def _record(content: Path, path: Path, url: str) -> None:
    record = {"url": url, "size": content.stat().st_size, "sha256": sha256_of(content)}
    write_json(_record_path(path), record, indent=2)


def _record_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")

"""Download public data sets: resumed, verified, unpacked, and going on past an item that fails."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote, urljoin, urlsplit

from ripe.data.archives import below, strip, unpack
from ripe.data.catalogue import SOURCES, how_to_get, place
from ripe.download import fetch_resumable, fetch_text
from ripe.files import locked, read_json, write_json

logger = logging.getLogger(__name__)

Say = Callable[[str], None]

SUMS = "md5sum.txt"
# Of the archives' own folders, as DISK's script does.
STRIPPED = 3
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")
RECORDS = ".downloaded"


@dataclass
class Fetched:
    """What became of a download: names of items that are in place, and messages of those that failed."""

    done: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def download(name: str, root: Path | None = None, archive: Path | None = None, say: Say = logger.info) -> Fetched:
    """Bring a data set to its place, or what is missing of it; another process that does the same is waited for.

    Args:
        name: key in `catalogue.SOURCES`.
        root: folder of the data sets, `data_dir()` if None.
        archive: file that was fetched by other means; it is unpacked and kept.
        say: called with a line for each item.

    Raises:
        ValueError: the data set is handed out by people, and no `archive` is given; or `archive` is damaged or another.
        OSError: the index of the data set cannot be had, or files cannot be written.
    """
    source, folder = SOURCES[name], place(name, root)
    if archive is not None and source.kind == "index":
        raise ValueError(f"{name}: is made of many archives; unpack them as {source.url} says")
    if archive is None and source.kind == "form":
        raise ValueError(f"{name}: cannot be downloaded by a program; {how_to_get(name, root)}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        if archive is not None:
            unpack(archive, folder, below(archive, source.holds))
            return Fetched(done=[archive.name])
        if source.kind == "archive":
            return _each([source.url], lambda url: _fetch_archive(url, folder, source.holds), say)
        items = read_index(source.url, source.within)
        return _each(items, lambda item: _fetch_item(item, folder), say)


@dataclass(frozen=True)
class Item:
    """A file of an index: its address, its path in the data set, and its MD5 sum where the index knows it."""

    url: str
    path: str
    md5: str | None

    def __str__(self) -> str:
        return self.path


def read_index(url: str, within: str) -> list[Item]:
    """The files of a data set that an index page links to, or that the list of sums beside it names.

    Pages that the index links to are followed if they lie below it.

    Raises:
        OSError: the page cannot be had.
        ValueError: it lists no file of the data set.
    """
    base = urljoin(url, ".")
    try:
        sums = _read_sums(fetch_text(urljoin(base, SUMS)))
    except OSError as error:
        logger.warning("no check sums: %s", error)
        sums = {}
    paths = set(sums)
    pages, seen = [url], {url}
    while pages:
        page = pages.pop()
        for link in _links(fetch_text(page), page, base):
            address = urljoin(base, quote(link))
            if link.endswith((".html", "/")) and address not in seen:
                seen.add(address)
                pages.append(address)
            elif not link.endswith((".html", "/")):
                paths.add(link)
    items = [
        Item(urljoin(base, quote(path)), path.removeprefix(within), sums.get(path))
        for path in sorted(paths)
        if path.startswith(within) and ".." not in PurePosixPath(path).parts
    ]
    if not items:
        raise ValueError(f"{url}: lists no file in {within}; the page must have changed")
    # Small files first: with `dataset.json` there, `ripe data check` can tell what is missing.
    return sorted(items, key=lambda item: (item.path.endswith(ARCHIVES), item.path))


def _read_sums(text: str) -> dict[str, str]:
    rows = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return {row[1].lstrip("*").removeprefix("./").strip(): row[0].lower() for row in rows if len(row) == 2}


def _links(text: str, page: str, base: str) -> Iterator[str]:
    """Paths relative to `base` of the files below it that `page`, whose content is `text`, links to."""

    class Links(HTMLParser):
        found: list[str]

        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            self.found += [value for key, value in attributes if key == "href" and tag == "a" and value]

    parser = Links()
    parser.found = []
    parser.feed(text)
    for link in parser.found:
        address = urljoin(page, link.split("#")[0].split("?")[0])
        if address.startswith(base) and address != base:
            yield unquote(address.removeprefix(base))


def _each(items: list, fetch: Callable, say: Say) -> Fetched:
    """Fetch item after item; one that fails is noted, and the others are fetched all the same."""
    outcome = Fetched()
    for number, item in enumerate(items, 1):
        try:
            news = fetch(item)
        except (OSError, ValueError) as error:
            outcome.failed.append(str(error))
            say(f"[{number}/{len(items)}] {item}: failed: {error}")
        else:
            outcome.done.append(str(item))
            say(f"[{number}/{len(items)}] {item}: {news}")
    return outcome


def _fetch_archive(url: str, folder: Path, holds: str) -> str:
    if (folder / holds).exists():
        return "is there already"
    archive = folder.parent / PurePosixPath(urlsplit(url).path).name
    fetch_resumable(url, archive)
    _unpack_and_remove(archive, lambda: unpack(archive, folder, below(archive, holds)))
    return f"unpacked to {folder}"


def _fetch_item(item: Item, folder: Path) -> str:
    target = folder / item.path
    record = folder / RECORDS / f"{item.path}.json"
    if _is_recorded(record, item, target.parent):
        return "is there already"
    fetch_resumable(item.url, target, md5=item.md5)
    names = [target.name]
    if item.path.endswith(ARCHIVES):
        names = _unpack_and_remove(target, lambda: unpack(target, target.parent, strip(STRIPPED)))
    record.parent.mkdir(parents=True, exist_ok=True)
    write_json(record, {"url": item.url, "md5": item.md5, "names": names})
    return "fetched and unpacked" if names != [target.name] else "fetched"


def _is_recorded(record: Path, item: Item, parent: Path) -> bool:
    """Whether an item was fetched before, is the same by its sum, and what came of it is still there."""
    try:
        content = read_json(record)
        return content["md5"] == item.md5 and all((parent / name).exists() for name in content["names"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _unpack_and_remove(archive: Path, unpacking: Callable[[], list[str]]) -> list[str]:
    """Unpack an archive that was downloaded; it is deleted, also if it is damaged: the next run fetches it anew."""
    try:
        names = unpacking()
    except ValueError:
        archive.unlink()
        raise
    archive.unlink()
    return names

"""Deletes what visitors leave: Gradio deletes files that it knows of, no folders, and by a clock that may be set."""

import threading
import time
from contextlib import suppress
from pathlib import Path

SWEEP_SECONDS = 30.0
KEEP_BYTES = 2_000_000_000


class Sweeper:
    """Keeps a folder small.

    Args:
        folder: whose files are deleted in time; what is there already stays.
        keep_seconds: how long files stay that nobody changes.
        keep_bytes: how much may be there; beyond, the oldest files go before their time.
    """

    def __init__(self, folder: Path, keep_seconds: float, keep_bytes: int = KEEP_BYTES) -> None:
        self._folder, self._keep_seconds, self._keep_bytes = folder, keep_seconds, keep_bytes
        self._kept = set(folder.rglob("*"))
        self._seen: dict[tuple[Path, int], float] = {}

    def start(self) -> None:
        """Sweep in a thread as long as the process lives."""
        threading.Thread(target=self._run, daemon=True).start()

    def sweep(self, now: float) -> None:
        """Delete what is due.

        Args:
            now: seconds of a clock that only goes forward.
        """
        sizes: dict[tuple[Path, int], int] = {}
        for path in self._folder.rglob("*"):
            if path not in self._kept:
                with suppress(FileNotFoundError):
                    status = path.stat()
                    sizes[path, status.st_ctime_ns] = 0 if path.is_dir() else status.st_size
        self._seen = {key: self._seen.get(key, now) for key in sizes}
        held = sum(sizes.values())
        # What lies in a folder before the folder, which cannot be deleted earlier.
        for key in sorted(sizes, key=lambda key: (self._seen[key], -len(key[0].parts))):
            if now - self._seen[key] <= self._keep_seconds and held <= self._keep_bytes:
                break
            _delete(key[0])
            held -= sizes[key]

    def _run(self) -> None:
        while True:
            time.sleep(SWEEP_SECONDS)
            self.sweep(time.monotonic())


def _delete(path: Path) -> None:
    with suppress(OSError):  # deleted meanwhile, a folder that holds something, or open where that forbids it
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()

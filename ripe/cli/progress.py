"""The progress bar of the commands that take long."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(label: str, total: int, *, unit: str = "it", leave: bool = True) -> Iterator[Callable[..., object]]:
    """A bar, as the function that moves it on by 1 or the number given; warnings meanwhile stand on lines of their own.

    Args:
        label: what is done.
        total: how much of it there is.
        unit: what is counted.
        leave: whether the bar stays on the screen when it is done.
    """
    from tqdm.auto import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    with logging_redirect_tqdm(), tqdm(total=total, unit=unit, desc=label, leave=leave) as bar:
        yield bar.update

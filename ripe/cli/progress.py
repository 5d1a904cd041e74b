"""How commands that take long say on the standard error what they are at."""

from __future__ import annotations

import sys
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


@contextmanager
def stage_line(command: str) -> Iterator[Callable[[str], None]]:
    """A line that names the stage a command is at, as the function that changes it; "" takes the line away.

    It is shown on a terminal alone: of a command that ends in a second or two, pipes and logs need to know no more than
    the result.
    """
    shown = sys.stderr.isatty()

    def begin(stage: str) -> None:
        if shown:
            print(f"\r\033[K{command}: {stage} …" if stage else "\r\033[K", end="", file=sys.stderr, flush=True)

    try:
        yield begin
    finally:
        begin("")

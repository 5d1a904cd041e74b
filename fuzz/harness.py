"""What the fuzz targets share: the property that they check, and how they make inputs.

A target is a function of bytes that libFuzzer chose, by what code they reached. It makes of them what a stranger, or a
caller, could hand in, and calls the library. The property is the same for all: a right result, or an error that the
docstrings name and that says which file is wrong; any other exception, a crash, more than 2 GB or 20 s of processor
time is a fault.
"""

import atexit
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import atheris
from atheris import FuzzedDataProvider as Provider

# libFuzzer's time is the clock's, by which a process that waits for a busy machine is slow; so it is for native hangs.
LIMITS = ("-rss_limit_mb=2048", "-timeout=600", "-max_len=4096", "-len_control=0")
SECONDS = 20
"""Of processor time, for an input."""
WATCHED = ["PIL", "ripe"]


def watched() -> Any:
    """For a `with` statement around imports: libFuzzer sees which branches an input takes in the library and Pillow.

    Their native decoders it does not see, so that targets damage whole files instead of hoping for headers. It never
    frees what a comparison there gives (atheris 3.0), so an array that is compared counts again for each input.
    """
    return atheris.instrument_imports(include=WATCHED)


def run(target: Callable[[Provider], None]) -> None:
    """Hand inputs to a target until libFuzzer's time is over; its options are this process's arguments."""
    warnings.simplefilter("ignore")  # Pillow's about damaged metadata

    def one_input(data: bytes) -> None:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            target(Provider(data))
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)

    signal.signal(signal.SIGPROF, _give_up)
    atheris.Setup([sys.argv[0], *LIMITS, *sys.argv[1:]], one_input)
    atheris.Fuzz()


class SlowError(BaseException):
    """An input took too long; no handler of errors stops it."""


def _give_up(*_: object) -> None:
    raise SlowError(f"more than {SECONDS} s of processor time")


@contextmanager
def refusing(*names: str | Path) -> Iterator[None]:
    """Lets pass the errors that the library documents, if their messages have one of these names."""
    try:
        yield
    except (OSError, ValueError) as error:
        if not any(str(name) in str(error) for name in names):
            raise


def scratch() -> Path:
    """An empty folder, removed when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="ripe-fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def spoilt(provider: Provider, content: bytes, most: int = 8) -> bytes:
    """A file with some bytes changed, cut off, put in or taken out; as it is where the provider has no say left."""
    changed = bytearray(content)
    for _ in range(provider.ConsumeIntInRange(0, most)):
        if not changed:
            break
        at = provider.ConsumeIntInRange(0, len(changed) - 1)
        match provider.ConsumeIntInRange(0, 4):
            case 0 | 1:
                changed[at] = provider.ConsumeIntInRange(0, 255)
            case 2:
                del changed[at:]
            case 3:
                changed[at:at] = provider.ConsumeBytes(8)
            case _:
                changed[at : at + 4] = pick(provider, (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"))
    return bytes(changed)


def pick(provider: Provider, choices: Sequence[Any]) -> Any:
    """One of the choices, of any type."""
    return choices[provider.ConsumeIntInRange(0, len(choices) - 1)]


def plain(provider: Provider, words: Sequence[str], depth: int = 3) -> Any:
    """What JSON and YAML can say: numbers of all kinds, texts, lists and mappings whose keys are mostly `words`."""
    kind = provider.ConsumeIntInRange(0, 9 if depth else 6)
    if kind <= 6:
        return (
            provider.ConsumeIntInRange(-4, 70),
            pick(provider, (None, True, False, [], {}, "", -1, 2**31, 2**63, 2**64, 10**400, 1e308, 0.5)),
            provider.ConsumeFloat(),
            pick(provider, (float("nan"), float("inf"), -float("inf"))),
            provider.ConsumeUnicode(6),
            pick(provider, words),
            provider.ConsumeIntInRange(-(2**70), 2**70) if provider.remaining_bytes() > 9 else 0,
        )[kind]
    count = provider.ConsumeIntInRange(0, 5)
    if kind == 7:
        return [plain(provider, words, depth - 1) for _ in range(count)]
    keys = [pick(provider, words) if provider.ConsumeBool() else provider.ConsumeUnicode(4) for _ in range(count)]
    return {key: plain(provider, words, depth - 1) for key in keys}

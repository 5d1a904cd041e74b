"""What glibc does with freed memory, by what it and the system say of it."""

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="no glibc")

ARENAS = """
import ctypes, threading
from ripe import allocator
{call}
together = threading.Barrier(12)
def work():
    kept = bytearray(100_000)
    together.wait()
    return kept
threads = [threading.Thread(target=work) for _ in range(12)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
ctypes.CDLL(None).malloc_stats()
"""


def test_threads_share_their_memory() -> None:
    """By what glibc itself says of twelve threads that hold memory at a time."""
    arenas = {
        call: subprocess.run(
            [sys.executable, "-c", ARENAS.format(call=call)], capture_output=True, text=True, check=True
        ).stderr.count("Arena ")
        for call in ("", "allocator.share_arenas()")
    }
    assert arenas["allocator.share_arenas()"] <= 2 < arenas[""]


HELD_BACK = """
import contextlib, re
import numpy as np
from ripe.allocator import large_blocks_returned
def resident():
    with open("/proc/self/status") as status:
        return int(re.search(r"VmRSS:\\s+(\\d+)", status.read())[1]) / 1024
np.ones(3_800_000)  # 30 MB: from now on glibc takes smaller blocks from its heap
with {how}():
    before = resident()
    blocks = [np.ones(1_000_000) for _ in range(20)]
    del blocks[:-1]
    print(resident() - before)
"""


def test_large_blocks_are_returned_while_one_of_them_is_in_use() -> None:
    kept, returned = (
        float(subprocess.check_output([sys.executable, "-c", HELD_BACK.format(how=how)], text=True))
        for how in ("contextlib.nullcontext", "large_blocks_returned")
    )
    assert kept > 100  # of 160 MB
    assert returned < 20  # the block in use has 8

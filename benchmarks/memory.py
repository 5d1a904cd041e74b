"""Peak memory of extraction below a ceiling, and of matching, each in a fresh process; prints Markdown tables.

    python benchmarks/memory.py --megapixels 12 48 108 200 --max-memory 2G
    python benchmarks/memory.py --model vgg_hyper --seconds 600

Photos are JPEG files that repeat a bundled photo. Weights of `vgg_hyper` are random (the released ones may not be at
hand), which changes nothing here. The peak is the largest resident set that the system has counted for the
process. A star marks a process that `--seconds` ended before its last part, whose peak may have been still to come.
Linux only.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

import ripe
from ripe.ceiling import parse_bytes
from ripe.tables import markdown_table

PHOTO = Path(ripe.__file__).parent / "assets" / "motorcycle_left.jpg"
MATCHED = 50_000
EXTRACT = """
import sys, torch, ripe
from ripe.pretrained import build
name, path, most = sys.argv[1:]
torch.manual_seed(0)
model = build(name).eval() if name == "vgg_hyper" else ripe.load(name, device="cpu")
features = model.extract(path, max_memory=most or None, threshold=-1e9)[0]
assert len(features) == 2048
"""
MATCH = """
import sys, torch, ripe
from ripe.features import Features
torch.manual_seed(0)
count = int(sys.argv[1])
features = [
    Features(torch.rand(count, 2), torch.rand(count), torch.nn.functional.normalize(torch.randn(count, 128)), (9, 9))
    for _ in range(2)
]
ripe.match(*features, ratio=0.9 if sys.argv[2] else None)
"""


def write_photo(path: Path, megapixels: float) -> None:
    """A JPEG of so many million pixels, 4:3."""
    with Image.open(PHOTO) as image:
        tile = np.asarray(image)
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    width = int(megapixels * 1e6 / height)
    repeats = (-(-height // tile.shape[0]), -(-width // tile.shape[1]), 1)
    Image.fromarray(np.tile(tile, repeats)[:height, :width]).save(path, quality=90)


def peak(code: str, arguments: list[str], seconds: float) -> tuple[float, bool]:
    """The largest resident set, in bytes, of a Python that runs `code`, and whether that came to its end in time.

    Raises:
        RuntimeError: it failed.
    """
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE, text=True)
    begun, most = time.monotonic(), 0.0
    while process.poll() is None and time.monotonic() - begun < seconds:
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                most = float(line.split()[1]) * 1024
        time.sleep(0.05)
    ended = process.poll() is not None
    process.kill()
    _, errors = process.communicate()
    if ended and process.returncode != 0:
        raise RuntimeError(errors)
    return most, ended


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["compact", "vgg_hyper"])
    parser.add_argument("--megapixels", nargs="*", type=float, default=[12, 48, 108, 200])
    parser.add_argument("--max-memory", nargs="+", default=["2G"], help='"" for no ceiling')
    parser.add_argument("--seconds", type=float, default=3600, help="after which a process is ended")
    parser.add_argument("--matching", action="store_true", help=f"match {MATCHED} keypoints with as many, too")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for megapixels in arguments.megapixels:
            path = Path(folder) / f"{megapixels:g}.jpg"
            write_photo(path, megapixels)
            for name in arguments.model:
                for most in arguments.max_memory:
                    found, ended = peak(EXTRACT, [name, str(path), most], arguments.seconds)
                    share = f"{found / parse_bytes(most):.0%}" if most else "–"
                    row = [f"{megapixels:g}", name, most or "none", f"{found / 1e9:.2f}{'' if ended else '*'}", share]
                    rows.append(row)
                    print(*row, flush=True, file=sys.stderr)
            path.unlink()
    if rows:
        print(markdown_table(["Mpx", "model", "ceiling", "peak, GB", "of the ceiling"], rows))
    if arguments.matching:
        cases = {"mutual": "", "mutual, ratio": "ratio"}
        found = [[name, f"{peak(MATCH, [str(MATCHED), how], 3600)[0] / 1e9:.2f}"] for name, how in cases.items()]
        print(markdown_table([f"matching {MATCHED} × {MATCHED}", "peak, GB"], found))


if __name__ == "__main__":
    main()

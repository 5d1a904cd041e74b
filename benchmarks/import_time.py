"""How long `import ripe` and all its public names take beyond PyTorch's own import: `python benchmarks/import_time.py`.

Each figure is the median of several fresh processes, as they measure it themselves.
"""

import statistics
import subprocess
import sys

REPEATS = 5
TIMED = "import time; start = time.perf_counter(); {code}; print(time.perf_counter() - start)"
CODES = {
    "import ripe": "import ripe",
    "import torch": "import torch",
    "every name of ripe, after torch": "import ripe; [getattr(ripe, name) for name in ripe.__all__]",
}


def seconds(code: str, before: str = "pass") -> float:
    """Median time of `code` in a fresh Python that has run `before`."""
    command = [sys.executable, "-c", f"{before}\n{TIMED.format(code=code)}"]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(REPEATS)]
    return statistics.median(float(run.stdout) for run in runs)


if __name__ == "__main__":
    for name, code in CODES.items():
        before = "import torch" if "after torch" in name else "pass"
        print(f"{name:32} {seconds(code, before):.3f} s")

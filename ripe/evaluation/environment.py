"""What a figure was measured with: versions, commit and hardware."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path

import cv2
import torch

PACKAGES = ("ripe-keypoints", "torch", "numpy", "opencv-python-headless", "poselib", "kornia")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a figure depends on, as far as they are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """Commit of this package's git checkout, with `+changes` if files differ from it; None outside of a checkout."""
    folder = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # An installed copy may lie in some other project's checkout.
        if not git("ls-files", "--", Path(__file__).name):
            return None
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno", "--", "..") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def hardware(device: torch.device) -> str:
    """The machine that extraction runs on, in words."""
    threads = f"{_processor()}, threads: PyTorch {torch.get_num_threads()}, OpenCV {cv2.getNumThreads()}"
    return f"{torch.cuda.get_device_name(device)} ({threads})" if device.type == "cuda" else threads


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()

"""The published command: `python ripe/train.py --config-name train …` is `ripe train --config-name train …`."""

import sys
from pathlib import Path


def _find_the_package() -> None:
    """Import from the folder above instead of this one.

    Python puts a script's own folder first on its path, where our `data`, `images` or `utils` would stand in for
    packages of these names.
    """
    here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != here]
    sys.path.insert(0, str(here.parent))


if __name__ == "__main__":
    _find_the_package()
    from ripe.cli import main

    sys.exit(main(["train", *sys.argv[1:]]))

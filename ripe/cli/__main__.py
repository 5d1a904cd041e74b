"""`python -m ripe.cli` is `ripe`."""

import sys

from ripe.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""Start the web demo: `python app.py [options of ripe demo]`."""

import sys

from ripe.cli import main

if __name__ == "__main__":
    sys.exit(main(["demo", *sys.argv[1:]]))

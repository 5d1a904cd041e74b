"""Match the two bundled photos with the default model and save a picture: `python demo.py [options of ripe match]`."""

import sys
from importlib import resources

from ripe.cli import main

PHOTOS = ("motorcycle_left.jpg", "motorcycle_right.jpg")
PICTURE = "demo_matches.png"

if __name__ == "__main__":
    paths = [str(resources.files("ripe") / "assets" / photo) for photo in PHOTOS]
    sys.exit(main(["match", *paths, "-o", PICTURE, *sys.argv[1:]]))

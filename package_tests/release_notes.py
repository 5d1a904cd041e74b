"""Print the changelog's section of the version that a tag names, if the checkout is ready to be released as it.

python package_tests/release_notes.py v0.1.0
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def notes(tag: str, version: str, changelog: str) -> str:
    """The section of the version, without its title.

    Raises:
        ValueError: the tag is of another version, or the changelog has no section of it with a date.
    """
    if tag != f"v{version}":
        raise ValueError(f"the tag is {tag}, and pyproject.toml has the version {version}")
    sections = re.split(r"^## (.*)\n", changelog, flags=re.MULTILINE)
    titles, texts = sections[1::2], sections[2::2]
    for title, text in zip(titles, texts, strict=True):
        if re.fullmatch(rf"{re.escape(version)} \(\d{{4}}-\d\d-\d\d\)", title):
            return text.strip()
    raise ValueError(f"CHANGELOG.md has no section `## {version} (YYYY-MM-DD)`, but {', '.join(titles)}")


def main(tag: str) -> None:
    """Print them, or one line that says what is wrong."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    try:
        print(notes(tag, version, (ROOT / "CHANGELOG.md").read_text()))
    except ValueError as error:
        sys.exit(f"release_notes.py: {error}")


if __name__ == "__main__":
    main(sys.argv[1])

"""What the pages on benchmarks and integrations tell people to type can be typed."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from ripe import cli

DOCS = Path(__file__).parents[1] / "docs"
PAGES = {name: (DOCS / f"{name}.md").read_text() for name in ("benchmarks", "integrations")}
LINES = [
    line
    for text in PAGES.values()
    for block in re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    for line in block.splitlines()
    if line.startswith("ripe ")
]


@pytest.mark.parametrize("line", LINES)
def test_every_command_is_a_command(line: str) -> None:
    _, *words = shlex.split(line, comments=True)
    assert callable(cli._parser(words[0]).parse_args(words).run)


@pytest.mark.parametrize("name", re.findall(r"--gluefactory-conf (\S+?)\)", PAGES["integrations"]))
def test_named_configurations_are_shipped(name: str) -> None:
    words = ["info", "--gluefactory-conf", name]
    assert cli._parser("info").parse_args(words).gluefactory_conf == name


@pytest.mark.parametrize(("page", "link"), [(p, t) for p, s in PAGES.items() for t in re.findall(r"\]\(([^)]+)\)", s)])
def test_links_lead_somewhere(page: str, link: str) -> None:
    if not link.startswith("https://"):
        file, _, anchor = link.partition("#")
        headings = re.findall(r"^#+ (.+)$", (DOCS / file).read_text(), flags=re.MULTILINE)
        assert anchor in {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_opencv_example_runs(photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for photo, name in zip(photos, ("left.jpg", "right.jpg"), strict=True):
        shutil.copy(photo, name)
    [example] = [code for code in re.findall(r"```python\n(.*?)```", PAGES["integrations"], re.DOTALL) if "cv2" in code]
    namespace: dict = {}
    exec(example, namespace)
    assert len(namespace["matches"]) > 100
    assert namespace["picture"].shape[2] == 3

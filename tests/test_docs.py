"""README and documentation do what they say.

`python` blocks run, and of `bash` blocks the lines that start with `ripe`. `console` blocks, whose lines start with
`$`, and `sh` blocks are for what sets up, takes long or needs more data: their `ripe` commands need only be commands.
"""

import importlib.util
import json
import re
import shlex
import shutil
from itertools import dropwhile
from pathlib import Path

import nbformat
import numpy as np
import pytest
import yaml
from nbclient import NotebookClient
from PIL import Image

from ripe import cli

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
NOTEBOOK = DOCS / "notebooks" / "two_photos_to_reconstruction.ipynb"
NOTEBOOK_PAGE = DOCS / "guides" / "notebook.md"
ELSEWHERE = (ROOT / "README.md", NOTEBOOK_PAGE)  # whose blocks other tests run
RUN = [page for page in PAGES if page not in ELSEWHERE and re.search(r"```python|```bash\nripe", page.read_text())]


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and content of all blocks of a page, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def lines(language: str, prompt: str = "") -> list[str]:
    found = [line for page in PAGES for kind, text in blocks(page) if kind == language for line in text.splitlines()]
    return [line.removeprefix(prompt) for line in found]


@pytest.fixture
def folder(tmp_path: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the pages speak of: two photos, a folder and a list of them, a pair of known homography."""
    (tmp_path / "photos").mkdir()
    for photo, name in zip(photos, ("left.jpg", "right.jpg"), strict=True):
        with Image.open(photo) as image:
            image.resize((370, 250)).save(tmp_path / name)
        shutil.copy(tmp_path / name, tmp_path / "photos" / name)
    (tmp_path / "pairs.txt").write_text("left.jpg right.jpg\n")
    pairs = tmp_path / "annotated_pairs"
    pairs.mkdir()
    with Image.open(tmp_path / "left.jpg") as image:
        image.save(pairs / "a.png")
        image.crop((20, 10, 370, 250)).save(pairs / "b.png")
    points = np.array([[30.0, 20], [300, 30], [40, 200], [320, 220]])
    pair = {"name": "shifted", "image0": "a.png", "image1": "b.png", "points0": points.tolist()}
    pair["points1"] = (points - (20, 10)).tolist()
    (pairs / "pairs.json").write_text(json.dumps({"model": "homography", "pairs": [pair]}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_block_of_a_page_runs(page: Path, folder: Path) -> None:
    names: dict[str, object] = {}
    for language, text in blocks(page):
        if language == "python":
            exec(compile(text, str(page), "exec"), names)
        elif language == "bash":
            for line in text.splitlines():
                if line.startswith("ripe "):
                    assert cli.main(shlex.split(line, comments=True)[1:]) == 0, line


def test_the_commands_of_the_readme_run(folder: Path) -> None:
    commands = [line for kind, text in blocks(ROOT / "README.md") if kind == "bash" for line in text.splitlines()]
    for line in commands:
        if line.startswith("ripe "):
            assert cli.main(shlex.split(line, comments=True)[1:]) == 0, line
    assert {path.name for path in folder.iterdir()} >= {"matches.png", "matches.json", "features.h5"}


@pytest.mark.parametrize("line", sorted({*lines("bash"), *lines("sh"), *lines("console", "$ ")}))
def test_every_command_is_a_command(line: str) -> None:
    variables = re.compile(r"[A-Z_]+=")  # before the command, as in OMP_NUM_THREADS=1 ripe …
    program, *words = dropwhile(variables.match, shlex.split(line, comments=True))
    if program == "make":
        assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    elif program == "ripe":
        assert callable(cli._parser(words[0]).parse_args(words).run)
    elif [program, *words][:2] == ["python", "ripe/train.py"]:
        assert callable(cli._parser("train").parse_args(["train", *words[1:]]).run)
    elif program == ".venv/bin/python" and words[0] != "-m":
        assert (ROOT / words[0]).is_file()
    elif program in ("build/match", "cmake", "npm") or words == ["-m", "http.server"]:
        assert all((ROOT / word).exists() for word in words if word.startswith(("examples/", "ripe/")))
    else:
        assert [program, *words[:1]] == ["pip", "install"] or words[:2][-1].startswith("gluefactory.eval.")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_linked_file_exists(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).is_file(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_picture_is_described(page: Path) -> None:
    assert "<img" not in page.read_text()
    for description in re.findall(r"!\[(.*?)\]\(", page.read_text(), flags=re.DOTALL):
        assert len(description) > 20


@pytest.mark.parametrize("page", [*PAGES, NOTEBOOK], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_page_installs_a_package_that_nobody_published(page: Path) -> None:
    assert not re.search(r"pip install [^\n`]*ripe", page.read_text())


@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "index.md"], ids=lambda page: page.name)
def test_the_figures_of_the_first_screen_are_those_of_the_model_card(page: Path) -> None:
    card = (DOCS / "model-card.md").read_text().split("## Accuracy")[1].splitlines()
    _, _, *rows = re.search(r"^\| \| homography.*?\n\n", page.read_text(), re.M | re.S)[0].strip().splitlines()
    assert len(rows) == 7
    for row in rows:
        name = re.search(r"compact|robust|SIFT|ORB|ALIKED-n16|DISK|XFeat", row)[0]
        measured = " ".join(line for line in card if line.startswith("| ") and name in line)
        figures = re.findall(r"\d+\.\d", row)
        assert figures
        assert set(figures) <= set(re.findall(r"\d+\.\d", measured)), name


def test_the_summary_of_the_model_card_is_that_of_its_tables() -> None:
    summary, tables = (DOCS / "model-card.md").read_text().split("## What it is for")
    rows = [line for line in summary.splitlines() if "AUC" in line or " ms" in line]
    figures = re.findall(r"\d+\.\d", " ".join(rows))
    assert len(figures) == 9
    assert set(figures) <= set(re.findall(r"\d+\.\d", tables))


def test_nothing_that_the_readme_shows_is_copied_with_a_prompt() -> None:
    assert not re.search(r"^\$ ", (ROOT / "README.md").read_text(), flags=re.MULTILINE)


def test_pictures_are_small() -> None:
    for picture in (DOCS / "images").iterdir():
        assert picture.stat().st_size < 200_000, picture.name


def test_every_page_is_in_the_navigation() -> None:
    pages = re.findall(r"[\w/-]+\.md", str(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert sorted(pages) == sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


def test_the_page_of_the_notebook_is_that_of_the_notebook() -> None:
    specification = importlib.util.spec_from_file_location("render_notebook", DOCS / "render_notebook.py")
    renderer = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(renderer)
    page = NOTEBOOK_PAGE.read_text()
    outputs = r"\n```text\n.*?```\n|\n!\[[^\]]*\]\([^)]*\)\n"
    without_outputs = re.sub(outputs, "", page, flags=re.DOTALL)
    assert without_outputs == renderer.page(nbformat.read(NOTEBOOK, as_version=4), []), "python docs/render_notebook.py"
    described = [cell.metadata.alt for cell in nbformat.read(NOTEBOOK, as_version=4).cells if "alt" in cell.metadata]
    assert re.findall(r"!\[(.*)\]", page) == described


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    pytest.importorskip("pycolmap")
    for path in NOTEBOOK.parent.iterdir():
        if path.is_file():
            shutil.copy(path, tmp_path)
    notebook = nbformat.read(tmp_path / NOTEBOOK.name, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # they would be out of date and large
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    figures = dict(re.findall(r"^([\w ]+): ([\d.]+)", printed, flags=re.MULTILINE))
    assert float(figures["direction of motion off by"]) < 5
    assert float(figures["median depth error"]) < 0.05
    assert int(figures["views registered"]) == 8
    assert float(figures["camera positions off by"]) < 0.05

"""Run the notebook and write it as a page with what it printed and drew: `python docs/render_notebook.py` (a minute).

The notebook itself is kept without outputs. The page is guides/notebook.md, its pictures are images/notebook-N.jpg. A
test fails if the notebook has changed since.
"""

import base64
import io
import shutil
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

DOCS = Path(__file__).parent
NOTEBOOK = DOCS / "notebooks" / "two_photos_to_reconstruction.ipynb"
PAGE = DOCS / "guides" / "notebook.md"
WIDTH = 1100
QUALITY = 80
NOTE = f"""
The notebook [{NOTEBOOK.name}](../notebooks/{NOTEBOOK.name}) with its results, which
`python docs/render_notebook.py` writes here. It draws its scene by [scene.py](../notebooks/scene.py), beside it.
"""


def executed() -> nbformat.NotebookNode:
    """The notebook with its outputs; run in a folder of its own."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        for path in NOTEBOOK.parent.iterdir():
            if path.is_file():
                shutil.copy(path, folder)
        resources = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    return notebook


def page(notebook: nbformat.NotebookNode, pictures: list[bytes]) -> str:
    """The notebook as Markdown, with the note below its title; the PNG pictures it shows are appended to `pictures`."""
    title, introduction = notebook.cells[0].source.split("\n", maxsplit=1)
    shown = [title, NOTE.strip(), introduction.strip()]
    for cell in notebook.cells[1:]:
        shown.append(f"```python\n{cell.source}\n```" if cell.cell_type == "code" else cell.source)
        shown += _outputs(cell, pictures)
    return "\n\n".join(shown) + "\n"


def _outputs(cell: Any, pictures: list[bytes]) -> list[str]:
    """What a cell printed, and its pictures, described by its metadata."""
    outputs = cell.get("outputs", [])
    printed = "".join(output.text for output in outputs if output.get("name") == "stdout").rstrip()
    shown = [f"```text\n{printed}\n```"] if printed else []
    for output in outputs:
        if "image/png" in output.get("data", {}):
            pictures.append(base64.b64decode(output.data["image/png"]))
            shown.append(f"![{cell.metadata['alt']}](../images/notebook-{len(pictures)}.jpg)")
    return shown


def save(picture: bytes, path: Path) -> None:
    """Save a PNG as JPEG, no wider than a page."""
    with Image.open(io.BytesIO(picture)) as image:
        image = image.convert("RGB")
        image.thumbnail((WIDTH, image.height))
        image.save(path, quality=QUALITY)


if __name__ == "__main__":
    pictures: list[bytes] = []
    PAGE.write_text(page(executed(), pictures))
    for number, picture in enumerate(pictures, start=1):
        save(picture, DOCS / "images" / f"notebook-{number}.jpg")

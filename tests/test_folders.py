"""Which files of a folder are photos."""

import os
from pathlib import Path

import pytest
from PIL import Image

from ripe.cli.extract import name_images
from ripe.data.own import SINGLES, read_root
from ripe.folders import photos_below, photos_in


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20)).save(folder / name)


def test_hidden_and_foreign_files_are_no_photos(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "._a.png", "sub/b.JPG", "sub/._b.jpg", ".thumbnails/a.png")
    put(tmp_path, "__MACOSX/a.png", "sub/@eaDir/b.jpg")
    (tmp_path / "notes.txt").touch()
    (tmp_path / "folder.jpg").mkdir()
    assert photos_below(tmp_path) == ["a.png", "sub/b.JPG"]
    assert photos_in(tmp_path) == ["a.png"]
    assert name_images([tmp_path]) == {"a.png": tmp_path / "a.png", "sub/b.JPG": tmp_path / "sub" / "b.JPG"}
    assert {scene.name: list(scene.names) for scene in read_root(tmp_path)} == {"sub": ["b.JPG"], SINGLES: ["a.png"]}


def test_links_to_folders_are_followed_and_never_in_circles(tmp_path: Path) -> None:
    put(tmp_path, "elsewhere/deep/a.png", "elsewhere/b.png", "photos/own/c.png")
    photos = tmp_path / "photos"
    (photos / "linked").symlink_to(tmp_path / "elsewhere")
    (photos / "own" / "up").symlink_to(photos)
    (tmp_path / "elsewhere" / "deep" / "back").symlink_to(photos / "linked")
    (photos / "gone").symlink_to(tmp_path / "nowhere")
    (photos / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (photos / "itself").symlink_to(photos / "itself")
    (photos / "one.png").symlink_to(tmp_path / "elsewhere" / "b.png")
    assert photos_below(photos) == ["linked/b.png", "linked/deep/a.png", "one.png", "own/c.png"]
    assert list(name_images([photos])) == photos_below(photos)


def test_a_folder_is_entered_by_the_way_without_links(tmp_path: Path) -> None:
    put(tmp_path, "z/a.png", "m/b.png")
    (tmp_path / "a").symlink_to(tmp_path / "z")
    (tmp_path / "m" / "link").symlink_to(tmp_path / "z")
    assert photos_below(tmp_path) == ["m/b.png", "z/a.png"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path, "a.png", "closed/b.png")
    (tmp_path / "closed").chmod(0)
    try:
        assert photos_below(tmp_path) == ["a.png"]
    finally:
        (tmp_path / "closed").chmod(0o700)
    assert str(tmp_path / "closed") in caplog.text

"""What the demo refuses before Gradio sees it, and what it deletes."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

pytest.importorskip("gradio")

import httpx
from starlette.applications import Starlette
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ripe.demo import guard
from ripe.demo.guard import Guard
from ripe.demo.sweeper import Sweeper


async def count(request: Request) -> Response:
    """How many bytes of the body arrived; as Gradio, 400 for what is wrong with it."""
    try:
        return PlainTextResponse(str(len(await request.body())))
    except MultiPartException as error:
        return PlainTextResponse(error.message, 400)


APP = Guard(Starlette(routes=[Route("/{rest:path}", count, methods=["GET", "POST"])]))


async def drips(pieces: int, seconds: float, size: int = 1000) -> AsyncIterator[bytes]:
    for _ in range(pieces):
        yield bytes(size)
        await asyncio.sleep(seconds)


async def post(path: str, body: bytes | AsyncIterator[bytes]) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(APP), base_url="http://demo") as client:
        return await client.post(path, content=body)


@pytest.mark.parametrize(
    ("path", "allowed"), [("/upload", guard.MAX_UPLOAD_BYTES), ("/queue/join", guard.MAX_BYTES), ("/", guard.MAX_BYTES)]
)
def test_no_body_exceeds_its_limit_whether_it_says_so_or_not(path: str, allowed: int) -> None:
    assert asyncio.run(post(path, bytes(allowed))).text == str(allowed)
    assert asyncio.run(post(path, bytes(allowed + 1))).status_code == 413
    refused = asyncio.run(post(path, drips(allowed // 1_000_000 + 2, 0, 1_000_000)))
    assert refused.status_code == 400
    assert "maximum allowed size" in refused.text


def test_a_body_that_drips_is_refused_and_a_steady_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "GRACE_SECONDS", 0.3)
    assert asyncio.run(post("/upload", drips(20, 0.02))).text == "20000"
    begun = time.monotonic()
    assert "too slowly" in asyncio.run(post("/upload", drips(500, 0.1, 1))).text
    assert time.monotonic() - begun < 30


def test_uploads_beyond_the_number_that_may_run_are_told_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MAX_UPLOADS", 2)

    async def together() -> list[httpx.Response]:
        return await asyncio.gather(*(post("/upload", counted()) for _ in range(5)))

    sent = 0

    async def counted() -> AsyncIterator[bytes]:
        nonlocal sent
        async for piece in drips(3, 0.1):
            sent += 1
            yield piece

    answers = asyncio.run(together())
    assert sorted(answer.status_code for answer in answers) == [200, 200, 503, 503, 503]
    assert sent == 15  # who is refused before all is sent sees a broken connection in place of the answer
    assert asyncio.run(post("/upload", b"x")).text == "1"


@pytest.mark.parametrize("path", ["file=http://example.org/", "file=file:///etc/passwd", "proxy=http://example.org/"])
def test_nothing_is_fetched_from_elsewhere(path: str) -> None:
    assert asyncio.run(post(f"/gradio_api/{path}", b"")).status_code == 403


def test_files_are_deleted_in_time_the_oldest_first_and_folders_after_them(tmp_path: Path) -> None:
    (tmp_path / "example.jpg").write_bytes(b"stays")
    sweeper = Sweeper(tmp_path, keep_seconds=100, keep_bytes=25)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1").write_bytes(bytes(10))
    sweeper.sweep(0)
    os.utime(tmp_path / "a" / "1", (0, time.time() + 1e6))  # what the clock says does not count, only that it is new
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "2").write_bytes(bytes(10))
    sweeper.sweep(90)
    sweeper.sweep(110)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["1", "2", "a", "b", "example.jpg"]
    (tmp_path / "b" / "3").write_bytes(bytes(20))
    sweeper.sweep(111)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["3", "example.jpg"]
    for now in (250, 400, 550):  # a folder's time begins anew when something in it is deleted
        sweeper.sweep(now)
    assert [path.name for path in tmp_path.rglob("*")] == ["example.jpg"]

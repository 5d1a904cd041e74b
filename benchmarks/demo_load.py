"""What the web demo stands: many visitors at once, good and bad ones, and many requests in a row.

    python benchmarks/demo_load.py                    200 visitors for two minutes
    python benchmarks/demo_load.py --requests 500     as many requests, one after the other

Both start `ripe demo` on 127.0.0.1 with its files in a folder of their own, talk to nobody else, and end by themselves.
Visitors match photos, send what is no photo, too much, too slowly or half of it, ask for other people's files, and
forge what a page sends. Each request must be answered, those that are not in order by a refusal; when the server has
ended, its folder must be empty. Times are given in those of a visitor who is alone, as they hang on the machine.
"""

import argparse
import asyncio
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

import ripe

ASSETS = Path(ripe.__file__).parent / "assets"
PAIRS = [("motorcycle_left.jpg", "motorcycle_right.jpg"), ("palace.jpg", "coffee.jpg"), ("brick.jpg", "brick.jpg")]
BAD = {"text.jpg": b"no image", "empty.png": b"", "cut.jpg": (ASSETS / "palace.jpg").read_bytes()[:20_000]}
TOO_MUCH = 31_000_000
PATIENCE_SECONDS = 300
TRAVERSALS = [
    "/gradio_api/file=/etc/passwd",
    "/gradio_api/file=/proc/self/environ",
    "/static/..%2f..%2f..%2fetc/passwd",
]
TRAVERSALS += ["/assets/%2e%2e/%2e%2e/%2e%2e/etc/passwd", "/gradio_api/file=..%2f..%2f..%2fetc/passwd"]
TRAVERSALS += ["/gradio_api/file=http://example.org/", "/gradio_api/proxy=http://example.org/"]
MATCH, DRAW, EXAMPLE, FILES, OVERLAY = "match", "draw", "example", "files", "overlay"


class LostError(Exception):
    """A request without an answer, or with one that it should not have had."""


@dataclass
class Tally:
    """What became of requests, and how long they took, by what was asked for."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    seconds: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    lost: list[str] = field(default_factory=list)


class Visitor:
    """One visitor with a session, who talks to the page's server as a browser does."""

    def __init__(self, client: httpx.AsyncClient, functions: dict[str, int]) -> None:
        self.client, self.functions = client, functions
        self.session = secrets.token_hex(6)

    async def upload(self, name: str, content: bytes) -> httpx.Response:
        """Send a file."""
        return await self.client.post("/gradio_api/upload", files={"files": (name, content)})

    async def ask(self, function: str | int, data: list[Any], **forged: Any) -> str:
        """Have a function of the page called: "answered", "refused", or "busy" if too many wait."""
        index = self.functions.get(function, function) if isinstance(function, str) else function
        body = {"data": data, "fn_index": index, "session_hash": self.session, "event_data": None, "trigger_id": None}
        joined = await self.client.post("/gradio_api/queue/join", json=body | forged)
        if joined.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            return "busy"
        if joined.is_error:
            return "refused"
        async with self.client.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.session}) as events:
            async for line in events.aiter_lines():
                message = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
                if message.get("msg") == "process_completed":
                    return "answered" if message["success"] else "refused"
        raise LostError(f"{function}: the events ended without an answer")

    async def match(self, photos: list[str], keypoints: Any = 1024, model: str = "compact", **forged: Any) -> str:
        """Match two photos of the server."""
        given = [{"path": photo, "meta": {"_type": "gradio.FileData"}} for photo in photos]
        data = [None, *given, model, "mutual", keypoints, "", "fundamental", 1.0, False]
        return await self.ask(MATCH, data, **forged)


ONCE = httpx.Limits(max_keepalive_connections=0)
Kind = Callable[[Visitor, random.Random], Awaitable[str]]


async def good(visitor: Visitor, chance: random.Random) -> str:
    """Match two photos and have pictures, the overlay and the files."""
    paths = []
    for name in chance.choice(PAIRS):
        sent = await visitor.upload(name, (ASSETS / name).read_bytes())
        if sent.is_error:
            return "busy" if sent.status_code == httpx.codes.SERVICE_UNAVAILABLE else "refused"
        paths += sent.json()
    outcome = await visitor.match(paths, chance.choice((512, 1024)))
    if outcome == "answered":
        await visitor.ask(DRAW, [None, "RIPE"])
        await visitor.ask(OVERLAY, [None, "RIPE", chance.choice(("slider", "blink", "checkerboard"))])
        await visitor.ask(FILES, [None])
    return outcome


async def bad(visitor: Visitor, chance: random.Random) -> str:
    """Match what is no photo."""
    sent = await visitor.upload(*chance.choice(list(BAD.items())))
    return "busy" if sent.is_error else await visitor.match(sent.json() * 2)


async def too_much(visitor: Visitor, chance: random.Random) -> str:
    """Send a file that is too large, or a request that is."""
    try:
        if chance.random() < 0.5:
            return "refused" if (await visitor.upload("large.jpg", bytes(TOO_MUCH))).is_error else "answered"
        return await visitor.ask(MATCH, ["x" * 5_000_000])
    except (httpx.WriteError, httpx.ReadError):  # the server has answered and closed the connection
        return "refused"


async def half(visitor: Visitor, chance: random.Random) -> str:
    """Hang up in the middle of a photo: there is nobody left to be answered."""
    body = (b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n' + bytes(50_000)) * 2
    connection = await asyncio.open_connection(visitor.client.base_url.host, visitor.client.base_url.port)
    head = f"POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Length: {10 * len(body)}\r\n"
    connection[1].write(head.encode() + b"Content-Type: multipart/form-data; boundary=x\r\n\r\n" + body)
    await connection[1].drain()
    await asyncio.sleep(chance.random())
    connection[1].close()
    return "refused"


async def slow(visitor: Visitor, chance: random.Random) -> str:
    """Send a photo a few bytes at a time."""

    async def drips() -> AsyncIterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n'
        for _ in range(PATIENCE_SECONDS):
            yield bytes(10)
            await asyncio.sleep(1)

    head = {"Content-Type": "multipart/form-data; boundary=x", "Content-Length": "10000000"}
    try:
        return (
            "refused"
            if (await visitor.client.post("/gradio_api/upload", content=drips(), headers=head)).is_error
            else "answered"
        )
    except (httpx.WriteError, httpx.ReadError):  # the server has answered and closed the connection
        return "refused"


async def climb(visitor: Visitor, chance: random.Random) -> str:
    """Ask for files that are nobody's business, or of other servers."""
    answer = await visitor.client.get(chance.choice(TRAVERSALS))
    return "refused" if answer.is_error else "answered"


async def forge(visitor: Visitor, chance: random.Random) -> str:
    """Send what no page sends."""
    own = str(ASSETS / "palace.jpg")
    tries: list[Callable[[], Awaitable[str]]] = [
        lambda: visitor.match(["/etc/passwd"] * 2),
        lambda: visitor.match([own] * 2),
        lambda: visitor.match(["http://127.0.0.1:1/a.jpg"] * 2),
        lambda: visitor.match(["\0"] * 2),
        lambda: visitor.match([own] * 2, "many"),
        lambda: visitor.match([own] * 2, model="/etc/passwd"),
        lambda: visitor.ask(MATCH, []),
        lambda: visitor.ask(99_999, [None]),
        lambda: visitor.ask(-1, [None]),
        lambda: visitor.ask(EXAMPLE, [], event_data={"index": -1}),
        lambda: visitor.ask(EXAMPLE, [], event_data={"index": "x"}),
        lambda: visitor.ask(EXAMPLE, [], event_data=[]),
        lambda: visitor.ask(FILES, [{"asked": [], "results": {"RIPE": own}}], session_hash={"a": 1}),
    ]
    return await chance.choice(tries)()


KINDS: dict[Kind, float] = {
    good: 0.4, bad: 0.15, too_much: 0.05, half: 0.1, slow: 0.05, climb: 0.1, forge: 0.15
}  # fmt: skip


async def request(address: str, functions: dict[str, int], kind: Kind, chance: random.Random, tally: Tally) -> None:
    """Make a new visitor's request and note what became of it."""
    begun = time.monotonic()
    try:
        async with (
            asyncio.timeout(PATIENCE_SECONDS),
            # A connection for each request: where one is used again, the server may be about to close it as idle.
            httpx.AsyncClient(base_url=address, timeout=PATIENCE_SECONDS, verify=False, limits=ONCE) as client,
        ):
            outcome = await kind(Visitor(client, functions), chance)
        if outcome != "busy" and (outcome == "answered") != (kind is good):
            raise LostError(f"was {outcome}")
    except (LostError, TimeoutError, httpx.HTTPError, ValueError) as error:
        outcome = "lost"
        tally.lost.append(f"{kind.__name__}: {error!r}")
    tally.outcomes[kind.__name__, outcome] += 1
    if outcome != "busy":
        tally.seconds[kind.__name__].append(time.monotonic() - begun)


async def storm(address: str, clients: int, seconds: float, seed: int, process: int) -> tuple[Tally, list[list[float]]]:
    """Visitors who make one request after the other until the time is over."""
    tally, samples = Tally(), []
    functions = functions_of(address)
    end = time.monotonic() + seconds

    async def visit(number: int) -> None:
        chance = random.Random(f"{seed} {number}")
        while time.monotonic() < end:
            [kind] = chance.choices(list(KINDS), list(KINDS.values()))
            await request(address, functions, kind, chance, tally)
            await asyncio.sleep(chance.random())

    async def watch() -> None:
        while True:
            samples.append(state_of(process))
            await asyncio.sleep(1)

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(visit(number) for number in range(clients)))
    watching.cancel()
    return tally, samples


def functions_of(address: str) -> dict[str, int]:
    """The page's functions by their names."""
    dependencies = httpx.get(f"{address}config", timeout=PATIENCE_SECONDS).json()["dependencies"]
    return {each["api_name"]: each["id"] for each in dependencies}


async def in_a_row(address: str, count: int, process: int) -> tuple[Tally, list[list[float]]]:
    """One visitor after the other."""
    tally, samples, chance = Tally(), [], random.Random(0)
    functions = functions_of(address)
    for _ in range(count):
        await request(address, functions, good, chance, tally)
        samples.append(state_of(process))
    return tally, samples


def state_of(process: int) -> list[float]:
    """A process's memory in MB, open files and threads."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    return [
        int(status["VmRSS"].split()[0]) / 1024,
        len(list(Path(f"/proc/{process}/fd").iterdir())),
        int(status["Threads"]),
    ]


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    """A demo with its temporary files in `folder`: its address and process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "ripe.cli", "demo", "--port", str(port), "--model", "compact", "--device", "cpu"]
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"}
    with (
        (folder.parent / "server.log").open("w") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment) as process,
    ):
        try:
            yield process.stdout.readline().split()[1], process
        finally:
            process.send_signal(signal.SIGTERM)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--requests", type=int, default=0, help="so many in a row, in place of many at once")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="demo-load-") as place:
        folder = Path(place) / "files"
        folder.mkdir()
        with served(folder) as (address, process):
            alone, _ = asyncio.run(in_a_row(address, 4, process.pid))
            if arguments.requests:
                tally, samples = asyncio.run(in_a_row(address, arguments.requests, process.pid))
            else:
                storming = storm(address, arguments.clients, arguments.seconds, arguments.seed, process.pid)
                tally, samples = asyncio.run(storming)
            held = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
        left = [path.name for path in folder.iterdir()]
        faults = (Path(place) / "server.log").read_text().count("Traceback")
    if arguments.requests:
        later = np.array(samples)[arguments.requests // 5 :, 0]  # until then, what is kept fills up
        rise = 1000 * np.polyfit(np.arange(len(later)), later, 1)[0]
        print(f"memory rises by {rise:.1f} MB per 1000 requests, the first fifth left out")
    report(tally, np.array(samples), float(np.median(alone.seconds["good"][1:])))
    print(f"files at the end {held:.0f} MB; left when the server had ended: {left}; tracebacks in its log: {faults}")
    return 1 if tally.lost or left else 0


def report(tally: Tally, samples: np.ndarray, alone: float) -> None:
    """Say what became of the requests and of the server."""
    for (kind, outcome), count in sorted(tally.outcomes.items()):
        print(f"{kind:9} {outcome:9} {count:6}")
    for kind, seconds in sorted(tally.seconds.items()):
        p50, p95 = np.percentile(seconds, [50, 95]) / alone
        print(f"{kind:9} p50 {p50:.1f}, p95 {p95:.1f} times a request of a visitor who is alone")
    for lost, count in Counter(tally.lost).most_common(10):
        print(f"LOST {count}: {lost}")
    first, last, most = samples[0], samples[-1], samples.max(axis=0)
    for name, values in zip(("memory MB", "files", "threads"), zip(first, last, most, strict=True), strict=True):
        print(f"{name:9} at first {values[0]:.0f}, at last {values[1]:.0f}, at most {values[2]:.0f}")


if __name__ == "__main__":
    sys.exit(main())

"""What stands before Gradio: no request may be too large or too slow, or ask for something of other servers.

Gradio bounds each file, but neither how many come in a request nor how long they take, reads requests that are no files
whole, fetches pages of other servers for whoever asks, and keeps what has arrived of a file whose sender hangs up.
"""

import asyncio
import re
import time
from contextlib import suppress

from starlette.formparsers import MultiPartException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ripe.demo.intake import MAX_FILE_BYTES

MAX_UPLOAD_BYTES = MAX_FILE_BYTES + 100_000  # with what multipart puts around a file
MAX_BYTES = 100_000  # of requests that are no uploads; the page's have a few thousand
MAX_UPLOADS = 64
GRACE_SECONDS = 20.0
LEAST_RATE = 20_000.0
"""Bytes a second that a request must bring on average, `GRACE_SECONDS` besides."""
CLOSE = (b"connection", b"close")
"""Of answers to requests that have not come to their end: the rest is not waited for."""
ELSEWHERE = re.compile(r"/(file=\w\w+:|proxy=)")


class Guard:
    """ASGI middleware that refuses such requests; see above."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._uploads = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request by a refusal, or hand it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        uploads = scope["path"].endswith("/upload")
        limit = MAX_UPLOAD_BYTES if uploads else MAX_BYTES
        body = _Body(receive, limit)
        refusal = self._refusal(scope, uploads, limit)
        if refusal is not None:
            with suppress(MultiPartException):
                await body.pass_over()
            await refusal(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start" and not body.whole:
                message = {**message, "headers": [*message.get("headers", ()), CLOSE]}
            await send(message)

        self._uploads += uploads
        try:
            await self._app(scope, body, answer)
        finally:
            self._uploads -= uploads

    def _refusal(self, scope: Scope, uploads: bool, limit: int) -> PlainTextResponse | None:
        if ELSEWHERE.search(scope["path"]):
            return _refused("nothing is fetched from elsewhere", 403)
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if not announced.isdigit() or int(announced) > limit:
            return _refused(f"requests may have {limit} bytes at most", 413)
        if uploads and self._uploads >= MAX_UPLOADS:
            return _refused("too many uploads at once", 503)
        return None


def _refused(words: str, status: int) -> PlainTextResponse:
    return PlainTextResponse(words, status, {"Retry-After": "5", "Connection": "close"})


class _Body:
    """A request's body as it arrives; what is wrong with it is the error after which Gradio deletes what there is."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive, self._limit = receive, limit
        self._begun, self._bytes, self.whole = time.monotonic(), 0, False

    async def pass_over(self) -> None:
        """Let it arrive: who is still sending would not see the answer, but a broken connection."""
        while not self.whole:
            await self()

    async def __call__(self) -> Message:
        if self.whole:
            return await self._receive()
        due = self._begun + GRACE_SECONDS + self._bytes / LEAST_RATE
        try:
            message = await asyncio.wait_for(self._receive(), due - time.monotonic())
        except TimeoutError as error:
            raise MultiPartException("it arrives too slowly") from error
        if message["type"] == "http.disconnect":
            raise MultiPartException("the sender has hung up")
        self._bytes += len(message.get("body", b""))
        self.whole = not message.get("more_body", False)
        if self._bytes > self._limit:
            raise MultiPartException(f"it exceeds the maximum allowed size of {self._limit} bytes")
        return message

"""What everything that answers HTTP requests of strangers shares: refusals, bodies within bounds, problems told seldom."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

BODY_S = 10.0
"""How long a body may take to come."""
BUSY_AGAIN_S = 5
TELL_S = 60.0
"""What strangers do wrong is stored as a problem at most once in so long, for each place and status."""


class Refusal(Exception):
    """A request is answered with this status and reason; nothing was taken."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason

    def answer(self) -> Response:
        """As the sender sees it."""
        return JSONResponse({"error": self.reason}, self.status)


class Seldom:
    """Remembers what was told when, so that the same is told seldom."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._told: dict[tuple[str, int], datetime] = {}

    def is_due(self, where: str, status: int) -> bool:
        """Whether this should be told now; then it counts as told. `where` must come from the configuration."""
        told, now = self._told.get((where, status)), self._clock()
        if told is not None and abs((now - told).total_seconds()) < TELL_S:
            return False
        self._told[where, status] = now
        return True


async def body_of(request: Request, most: int) -> bytes:
    """The body. Raises Refusal when it is longer than `most` bytes or comes too slowly, and ClientDisconnect."""
    told = request.headers.get("content-length", "")
    if told.isdigit() and int(told) > most:
        raise Refusal(413, f"the body may have {most} bytes")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for piece in request.stream():
                body += piece
                if len(body) > most:
                    raise Refusal(413, f"the body may have {most} bytes")
    except TimeoutError:
        raise Refusal(408, "the body did not come in time") from None
    return bytes(body)


def busy() -> Response:
    """Nothing was taken; try again."""
    return JSONResponse({"error": "busy; nothing was taken"}, 503, {"Retry-After": str(BUSY_AGAIN_S)})

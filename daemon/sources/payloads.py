"""Where KServe's payload logger posts requests and responses: POST /streams/NAME/TOKEN, beside the webhooks.

The logger cannot sign and sends at most once: anything but 200 is a lost event. So an event is answered 200 as soon as its
line is on the disk (`spool`), and nothing else has to work for that, neither the store nor the monitors; a stream of files
of format `kserve` reads the lines from there. Answers: 200 · 400 no CloudEvent · 401 not its token · 404 no such stream ·
408 the body came too slowly · 413 too large · 503 no room on the disk or in the spool, or too many at once.

Nothing of an event is looked into here. What is refused is a stored problem, once a minute for each stream and reason.
"""

from __future__ import annotations

import asyncio
import hmac
import threading
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from daemon.core.errors import BadInput, StoreBusy
from daemon.core.problems import Problem
from daemon.intake import Batch, Intake
from daemon.payloadparts import PayloadHook
from daemon.sources.envelopes import line_of_request
from daemon.sources.requests import Refusal, Seldom, body_of, busy
from daemon.sources.spool import Spool

AT_ONCE = 32
"""Most events that may be read or written at once; others wait for their turn."""
AT_MOST = 1024
"""Most connections: each pod of a model keeps five or so."""
WAIT_S = 5.0
"""How long an event waits for its turn."""
SWEEP_S = 30.0
"""How often measured files are looked for."""
_PAGE = 1000
_TOLD: Mapping[int, str] = {
    400: "posts that are no CloudEvents were not taken; the URL belongs to KServe's payload logger (predictor.logger.url)",
    401: "posts came without the stream's token; the logger's URL must end with it",
    404: "posts came for a stream that `webhook: streams:` does not name",
    408: "bodies of posts did not come in time and were not taken; they are lost",
    413: "bodies of posts were larger than max_bytes of the stream and were not taken; they are lost",
    503: "posts were not taken and are lost: there was no room on the disk or in the spool (spool_mb), or too many came",
}
"""What becomes a problem, by the status of the answer."""


class Posts:
    """All streams that are posted to. `folders`: where their files lie. `open`, `turn` and `close` are for one thread."""

    def __init__(
        self, hooks: Mapping[str, PayloadHook], folders: Mapping[str, Path], clock: Callable[[], datetime]
    ) -> None:
        self._hooks = hooks
        self._clock = clock
        self._folders = folders
        self._spools = {name: Spool(folders[name], hook.spool_mb << 20, clock) for name, hook in hooks.items()}
        self._seldom = Seldom(clock)
        self._to_tell: deque[Problem] = deque(maxlen=100)
        self._turns = threading.Lock()
        self._at_once = asyncio.Semaphore(AT_ONCE)
        self._swept_at: datetime | None = None
        self._wrong: dict[str, str] = {}
        """Streams whose last event found no place, or whose files cannot be kept, and why."""

    @property
    def problem(self) -> str:
        """What is wrong with the disk now; empty when all is well."""
        return next((f"stream {name}: {why}" for name, why in list(self._wrong.items())), "")

    def routes(self) -> list[Route]:
        """For an application, which has its own event loop."""
        self._at_once = asyncio.Semaphore(AT_ONCE)
        paths = ("/streams/{name}", "/streams/{name}/{token}")
        return [Route(path, self.take, methods=["POST"]) for path in paths]

    def open(self, intake: Intake) -> None:
        """Take up what an earlier daemon left."""
        for name, spool in self._spools.items():
            try:
                spool.recover()
            except OSError as error:
                self._wrong[name] = f"its folder cannot be used: {error.strerror or error}"
        self.turn(intake)

    def turn(self, intake: Intake) -> None:
        """Close files that are old enough, remove those that were measured, and tell what was refused."""
        now = self._clock()
        due = self._swept_at is None or abs((now - self._swept_at).total_seconds()) >= SWEEP_S
        for name, spool in self._spools.items():
            try:
                spool.turn()
                if due:
                    spool.remove(self._measured(name, intake), self._hooks[name].keep)
            except OSError as error:
                self._wrong[name] = f"its files cannot be kept: {error.strerror or error}"
        if due:
            self._swept_at = now
        self._tell(intake)

    def close(self) -> None:
        """Close all files; what cannot be closed now is recovered at the next start."""
        for name, spool in self._spools.items():
            try:
                spool.turn(at_once=True)
            except OSError as error:
                self._wrong[name] = f"its file cannot be closed: {error.strerror or error}"

    async def take(self, request: Request) -> Response:
        """Answer one post."""
        name = request.path_params["name"]
        try:
            async with asyncio.timeout(WAIT_S):
                await self._at_once.acquire()
        except TimeoutError:
            self._note(name, 503)
            return busy()
        try:
            return await self._taken(name, request)
        except Refusal as refusal:
            self._note(name, refusal.status)
            return busy() if refusal.status == 503 else refusal.answer()
        except asyncio.CancelledError:  # driftd stops, and nothing was promised
            return busy()
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        finally:
            self._at_once.release()

    async def _taken(self, name: str, request: Request) -> Response:
        hook = self._hooks.get(name)
        if hook is None:
            raise Refusal(404, "there is no such stream")
        if not _may(hook, request.path_params.get("token", "")):
            raise Refusal(401, "the path does not end with the stream's token")
        body = await body_of(request, hook.max_bytes)
        try:
            line = line_of_request(request.headers.items(), body)
        except BadInput as error:
            raise Refusal(400, str(error)) from None
        try:
            await run_in_threadpool(self._spools[name].append, line)
        except OSError as error:
            self._wrong[name] = f"an event was not taken: {error.strerror or error}"
            raise Refusal(503, "there is no room") from None
        self._wrong.pop(name, None)
        return JSONResponse({})

    def _note(self, name: str, status: int) -> None:
        """Tell of it later, unless the same was told a short while ago; a name that nobody configured is not repeated."""
        where = f"streams/{name}" if name in self._hooks else "streams"
        if self._seldom.is_due(where, status):
            self._to_tell.append(Problem("webhook", where, _TOLD[status]))

    def _tell(self, intake: Intake) -> None:
        while self._to_tell:
            try:
                intake.submit(Batch(problems=(self._to_tell[0],)), timeout=1.0)
            except StoreBusy:
                return  # at the next turn
            self._to_tell.popleft()

    def _measured(self, name: str, intake: Intake) -> frozenset[Path]:
        """The oldest files that have been read to their ends."""
        return frozenset(map(Path, intake.files(f"stream:{name}", f"{self._folders[name]}/", _PAGE)))


def _may(hook: PayloadHook, token: str) -> bool:
    """Whether the path holds the token; one that could not be read lets nobody in."""
    if hook.token is None:
        return hook.open and not token
    wanted = hook.token.value.get_secret_value()
    return bool(wanted) and hmac.compare_digest(token.encode(), wanted.encode())

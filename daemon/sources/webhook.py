"""Webhooks: signed CloudEvents at POST /hooks/NAME. (Beside them, on the same address: `payloads`, at /streams/NAME.)

Answers: 202 once the events are durable, a repeat too (`fresh` says which were new) · 400 malformed, stored as a problem ·
401 not signed, or not within the window · 404 no such hook · 408 the body came too slowly · 413 too large · 415 content
that is not understood · 503 with Retry-After while the store or this server is busy: nothing was taken.

Nothing of a request is looked into before its signature holds, and what the unsigned can cause is bounded: requests at
once, bytes, seconds, and one stored problem a minute for each hook and reason.

MLflow's own webhooks (`X-MLflow-Signature`, same secret) are only a hint to look at the registry now: they get lost, and
say nothing that the poll does not find.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from daemon.config import Hook, WebhookConfig
from daemon.core.errors import BadInput, StoreBusy
from daemon.core.problems import Problem
from daemon.intake import Batch, Intake, Receipt
from daemon.listening import Listener
from daemon.sources.base import Health
from daemon.sources.cloudevents import Unsupported, event_of, read_request
from daemon.sources.delivery import Pulse
from daemon.sources.payloads import AT_MOST, Posts
from daemon.sources.requests import Refusal, Seldom, body_of, busy
from daemon.sources.signatures import is_signed, is_signed_by_mlflow

AT_ONCE = 32
"""Most requests that may be read or stored at once."""
STORE_S = 10.0
"""How long a request waits until its events are durable."""
_UNSIGNED: Mapping[int, str] = {
    401: "requests came without a valid signature within the window; check the secret and clock of the sender",
    404: "requests came for a hook that config.yaml does not name",
    408: "bodies of requests did not come in time and were not taken",
    413: "bodies of requests were larger than webhook.max_bytes and were not taken",
}
"""What becomes a problem before anybody knows who speaks, by the status of the answer."""


class WebhookSource:
    """The listener for all hooks. `wake` is called when MLflow says that the registry changed; `posts`: what else is
    taken at this address.
    """

    def __init__(
        self,
        config: WebhookConfig,
        clock: Callable[[], datetime],
        wake: Callable[[], None] = lambda: None,
        posts: Posts | None = None,
    ) -> None:
        self.name = "webhook:listener"
        at_once = AT_ONCE * 2 if posts is None else AT_MOST
        self._listener = Listener("webhook-server", config.host, config.port, at_once)
        self._posts = posts
        self._config = config
        self._clock = clock
        self._wake = wake
        self._pulse = Pulse(clock)

    @property
    def port(self) -> int | None:
        """Where it listens now; differs from the config when that says 0."""
        return self._listener.port

    def run(self, intake: Intake, stop: threading.Event) -> None:
        """Listen until `stop` is set; where the address cannot be had, try again and say so."""
        hooks = Hooks(self._config, intake, self._clock, self._pulse, self._wake)
        posts = self._posts
        if posts is None:
            self._listener.run(hooks.app(), stop, self._pulse.alive, self._pulse.ails)
            return

        def turn() -> None:
            posts.turn(intake)
            self._pulse.alive(posts.problem)

        posts.open(intake)
        try:
            self._listener.run(hooks.app(posts.routes()), stop, turn, self._pulse.ails)
        finally:
            posts.close()

    def health(self) -> Health:
        """How it is doing now."""
        return self._pulse.health()


class Hooks:
    """What answers requests. Its methods run in the server's event loop, the store's part in threads."""

    def __init__(
        self,
        config: WebhookConfig,
        intake: Intake,
        clock: Callable[[], datetime],
        pulse: Pulse,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self.unsigned = dict.fromkeys(config.hooks, 0)
        """Requests without a valid signature, per hook."""
        self._hooks: Mapping[str, Hook] = config.hooks
        self._max_bytes = config.max_bytes
        self._intake = intake
        self._clock = clock
        self._pulse = pulse
        self._wake = wake
        self._at_once = 0
        self._seldom = Seldom(clock)

    def app(self, others: Sequence[Route] = ()) -> Starlette:
        """The ASGI application with its one route, and others."""
        return Starlette(routes=[Route("/hooks/{name}", self.take, methods=["POST"]), *others])

    async def take(self, request: Request) -> Response:
        """Answer one request."""
        if self._at_once >= AT_ONCE:
            return busy()
        self._at_once += 1
        name = request.path_params["name"]
        try:
            try:
                return await self._taken(name, request)
            except Refusal as refusal:
                if refusal.status in _UNSIGNED:
                    await self._note_unsigned(name, refusal.status)
                return refusal.answer()
        except (StoreBusy, asyncio.CancelledError):  # cancelled: driftd stops, and nothing was promised
            return busy()
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        finally:
            self._at_once -= 1

    async def _taken(self, name: str, request: Request) -> Response:
        hook = self._hooks.get(name)
        if hook is None:
            raise Refusal(404, "there is no such hook")
        body = await body_of(request, self._max_bytes)
        now = self._clock()
        secret = hook.secret.value.get_secret_value().encode()
        headers = dict(request.headers.items())
        if "x-mlflow-signature" in headers and is_signed_by_mlflow(secret, headers, body, now, hook.window):
            self._wake()
            return JSONResponse({"seqs": [], "fresh": []}, 202)
        if not is_signed(secret, request.headers.items(), body, now, hook.window):
            self.unsigned[name] += 1
            raise Refusal(401, "the signature does not hold, or its time is outside the window")
        try:
            events = tuple(event_of(name, told, now) for told in read_request(headers, body))
        except BadInput as error:
            status = 415 if isinstance(error, Unsupported) else 400
            await self._store(Batch(problems=(Problem("webhook", f"hooks/{name}", str(error)[:500]),)))
            raise Refusal(status, str(error)) from None
        receipt = await self._store(Batch(events))
        self._pulse.took()
        return JSONResponse({"seqs": receipt.seqs, "fresh": receipt.fresh}, 202)

    async def _store(self, batch: Batch) -> Receipt:
        return await run_in_threadpool(functools.partial(self._intake.submit, batch, timeout=STORE_S))

    async def _note_unsigned(self, name: str, status: int) -> None:
        """Store a problem, unless the same was stored a short while ago; a name that nobody configured is not repeated."""
        where = f"hooks/{name}" if name in self._hooks else "hooks"
        if self._seldom.is_due(where, status):
            await self._store(Batch(problems=(Problem("webhook", where, _UNSIGNED[status]),)))

"""The gateway's HTTP: MLflow's /invocations for everybody, the rest for who holds the token.

    POST   /targets/T/invocations        MLflow's scoring protocol; X-Driftd-Id, X-Driftd-Unit; answers X-Driftd-Version
    GET    /health  /metrics
    PUT    /targets/T/versions/V         {"model_uri": …, "environment": {…}}
    DELETE /targets/T/versions/V
    GET    /targets/T/traffic
    PUT    /targets/T/traffic            {"weights": {V: percent}, "epoch": n, "by": …}
    GET    /targets/T/served?since=ISO

409: the epoch (or what is deployed) is another. 422: refused, whatever is tried. 503: not now.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from pydantic import AwareDatetime, BaseModel
from starlette.routing import Route

from daemon.core.errors import ClientError, Conflict, DaemonError, Unavailable
from daemon.gateway.scoring import Answer, Asked, failure
from daemon.gateway.service import Service
from daemon.gateway.state import Deployment

MAX_BYTES = 16_000_000
MAX_REQUESTS = 2048


class Version(BaseModel):
    """A version to load."""

    model_uri: str
    environment: dict[str, str] = {}


class Change(BaseModel):
    """A new split."""

    weights: dict[str, float]
    epoch: int
    by: str


def make_app(service: Service, token: str, lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]]) -> FastAPI:
    """The application. `token` guards everything that changes or tells about traffic."""
    app = FastAPI(title="driftd gateway", openapi_url=None, lifespan=lifespan)
    app.router.routes.append(_invocations(service))
    app.include_router(_admin(service, token))
    app.add_exception_handler(DaemonError, _told)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return service.health()

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(_metrics(service), media_type="text/plain; version=0.0.4")

    return app


def _admin(service: Service, token: str) -> APIRouter:
    """What the daemon's side does."""

    def guard(request: Request) -> None:
        given = request.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            raise HTTPException(401, "the token in gateway/token of the home folder is needed")

    router = APIRouter(prefix="/targets/{target}", dependencies=[Depends(guard)])

    @router.put("/versions/{version}")
    async def deploy(target: str, version: str, asked: Version) -> dict[str, Any]:
        return await service.deploy(target, version, Deployment(asked.model_uri, asked.environment))

    @router.delete("/versions/{version}")
    async def retire(target: str, version: str) -> dict[str, Any]:
        return await service.retire(target, version)

    @router.get("/traffic")
    async def traffic(target: str) -> dict[str, Any]:
        return service.traffic(target)

    @router.put("/traffic")
    async def shift(target: str, asked: Change) -> dict[str, Any]:
        return await service.shift(target, asked.weights, asked.epoch, asked.by)

    @router.get("/served")
    async def served(target: str, since: AwareDatetime) -> dict[str, Any]:
        return {"requests": await service.served(target, since), "since": since.isoformat()}

    return router


async def _told(_request: Request, error: Exception) -> Response:
    """What is refused becomes a status and a reason."""
    status = 409 if isinstance(error, Conflict) else 503 if isinstance(error, Unavailable) else 422
    return JSONResponse({"detail": error.why if isinstance(error, ClientError) else str(error)}, status)


def _invocations(service: Service) -> Route:
    """The one route that is fast: no validation layers between the socket and the model."""
    running = 0

    async def invocations(request: Request) -> Response:
        nonlocal running
        if running >= MAX_REQUESTS:
            return _response(failure(503, f"{MAX_REQUESTS} requests are being answered already"))
        running += 1
        try:
            kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
            if kind != "application/json":
                return _response(failure(415, f"this gateway takes application/json, not {kind}"))
            body = bytearray()
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BYTES:
                    return _response(failure(413, f"the request has more than {MAX_BYTES} bytes"))
            asked = Asked(request.headers.get("x-driftd-id", ""), request.headers.get("x-driftd-unit", ""))
            return _response(await service.score(request.path_params["target"], bytes(body), asked))
        finally:
            running -= 1

    return Route("/targets/{target}/invocations", invocations, methods=["POST"])


def _response(answer: Answer) -> Response:
    headers = {"x-driftd-id": answer.id, "x-driftd-version": answer.versions} if answer.versions else None
    return Response(answer.body, answer.status, headers, answer.content_type)


def _metrics(service: Service) -> str:
    """Prometheus text."""
    lines = ["# TYPE driftd_gateway_requests_total counter"]
    for (target, versions, status), count in sorted(service.counts.items()):
        lines.append(
            f'driftd_gateway_requests_total{{target="{target}",versions="{versions}",status="{status}"}} {count}'
        )
    lines += ["# TYPE driftd_gateway_log_lost_total counter", "# TYPE driftd_gateway_log_waiting gauge"]
    for target, log in service.health()["logs"].items():
        lines.append(f'driftd_gateway_log_lost_total{{target="{target}"}} {log["lost"]}')
        lines.append(f'driftd_gateway_log_waiting{{target="{target}"}} {log["waiting"]}')
    return "\n".join(lines) + "\n"

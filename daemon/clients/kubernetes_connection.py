"""How an API server is reached: credentials, TLS and pooled connections. The only module that imports `kubernetes`.

Of that package this takes what is hard to get right: kubeconfigs with their contexts, tokens, exec plugins and client
certificates, a pod's service account whose token is renewed on disk, proxies, and the connection pool made of all that.
Its typed API classes and models are left out: requests here are about plain dicts of any kind. In version 37 these are
loaded on demand only, so the import costs 0.6 s and 18 MB; who runs on the local platform never pays it.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import urllib3
from kubernetes import client as kubernetes_client
from kubernetes import config as kubernetes_config
from kubernetes.client.rest import RESTClientObject

from daemon.clients.kubernetes_errors import SERVICE
from daemon.core.errors import Refused, Unavailable
from daemon.platformparts import KubernetesConnection

MOST_BYTES = 64 * 1024 * 1024
"""Longest answer that is read; a page of a list has a few megabytes."""
_POOL = 64
"""Connections that are kept: a worker has one at a time, and a watch has its own."""
_KEEPALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
        if hasattr(socket, name)
    ),
]


@dataclass(frozen=True, slots=True)
class Request:
    """One request: what is asked, and how long it may take."""

    method: str
    path: str
    query: Mapping[str, str]
    body: bytes | None = None
    content_type: str = "application/json"

    def __str__(self) -> str:
        """`GET /api/v1/pods`."""
        return f"{self.method} {self.path}"


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back."""

    code: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


class Stream:
    """An answer that goes on for as long as there is something to say: a watch."""

    def __init__(self, response: Any) -> None:
        self._response = response
        self._is_cut = False

    def chunks(self) -> Iterator[bytes]:
        """What comes, as it comes; ends when the server or `cut` ends it, or nothing came for the request's time.

        Raises Unavailable when the connection breaks.
        """
        try:
            yield from self._response.stream(65536)
        except urllib3.exceptions.ReadTimeoutError:
            return
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            if self._is_cut:
                return
            raise Unavailable(SERVICE, "watch", f"the connection broke: {error!r}") from error

    def cut(self) -> None:
        """End it from another thread."""
        self._is_cut = True
        with contextlib.suppress(OSError, ValueError):
            self._response.shutdown()


class Wire:
    """Connections to one API server, and who driftd is there. Safe to use from any thread."""

    def __init__(self, connection: KubernetesConnection) -> None:
        """Refused when the kubeconfig or the service account cannot be used."""
        self._settings = _settings(connection)
        self._pool = RESTClientObject(self._settings).pool_manager
        self._credentials = threading.Lock()

    @property
    def server(self) -> str:
        """The API server's address."""
        return str(self._settings.host)

    def send(self, request: Request, seconds: float) -> Reply:
        """Ask, and read the answer whatever its code. Unavailable when none came in time."""
        until = time.monotonic() + seconds
        with self._broken(request):
            response = self._open(request, urllib3.Timeout(connect=seconds, read=seconds))
            try:
                body = bytearray()
                for chunk in response.stream(65536):
                    body += chunk
                    if time.monotonic() > until or len(body) > MOST_BYTES:
                        response.close()
                        raise Unavailable(SERVICE, str(request), f"the answer was not complete after {seconds:g} s")
            finally:
                response.release_conn()
        return Reply(response.status, _lower(response.headers), bytes(body))

    @contextlib.contextmanager
    def stream(self, request: Request, seconds: float, quiet: float) -> Iterator[Reply | Stream]:
        """Ask for a stream, for as long as the block runs: a Stream, or a Reply when the server refuses it.

        `seconds`: how long the answer may take to begin; `quiet`: how long nothing may come before it ends.
        """
        with self._broken(request):
            response = self._open(request, urllib3.Timeout(connect=seconds, read=quiet))
        try:
            if response.status == 200:
                yield Stream(response)
                return
            with self._broken(request):
                body = response.read(1_000_000)
            yield Reply(response.status, _lower(response.headers), body)
        finally:
            response.close()

    def close(self) -> None:
        """Give the connections back that nobody uses."""
        self._pool.clear()

    def _open(self, request: Request, timeout: urllib3.Timeout) -> Any:
        headers = {"accept": "application/json", "user-agent": "driftd", **self._authorization()}
        if request.body is not None:
            headers["content-type"] = request.content_type
        query = f"?{urlencode(request.query)}" if request.query else ""
        return self._pool.request(
            request.method,
            f"{self._settings.host}{request.path}{query}",
            body=request.body,
            headers=headers,
            timeout=timeout,
            retries=False,
            redirect=False,
            preload_content=False,
        )

    def _authorization(self) -> dict[str, str]:
        """The header that says who driftd is; asked anew each time, because tokens are renewed."""
        with self._credentials:
            settings: Mapping[str, Any] = self._settings.auth_settings()
        return {str(one["key"]): str(one["value"]) for one in settings.values() if one["value"]}

    @contextlib.contextmanager
    def _broken(self, request: Request) -> Iterator[None]:
        """What breaks between here and the server, as Unavailable."""
        try:
            yield
        except (urllib3.exceptions.HTTPError, OSError) as error:
            why = f"no answer from {self.server}: {error!r}"
            raise Unavailable(SERVICE, str(request), why) from error
        except kubernetes_config.ConfigException as error:
            raise Unavailable(SERVICE, str(request), f"its credentials cannot be renewed: {error}") from error


def _settings(connection: KubernetesConnection) -> Any:
    """The package's own settings, filled from the kubeconfig or the pod's service account."""
    settings = kubernetes_client.Configuration()
    try:
        if connection.kubeconfig is None:
            kubernetes_config.load_incluster_config(client_configuration=settings)
        else:
            kubernetes_config.load_kube_config(
                config_file=str(connection.kubeconfig),
                context=connection.context or None,
                client_configuration=settings,
                persist_config=False,
            )
    except (kubernetes_config.ConfigException, OSError, ValueError) as error:
        where = connection.kubeconfig or "the pod's service account"
        hint = "set platform.kubeconfig in config.yaml"
        raise Refused(SERVICE, "connect", f"{where} cannot be used: {error}", hint) from error
    settings.connection_pool_maxsize = _POOL
    settings.socket_options = _KEEPALIVE
    return settings


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}

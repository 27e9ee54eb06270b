"""The administrator of a test cluster: plain REST calls with JSON, in which a test sees what it asks for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import httpx
import orjson

MANAGER = "driftd-tests"
"""Field manager of what is applied here."""
WAIT_S = 60.0

Json = dict[str, Any]


class Admin:
    """Calls one API server; an answer of 400 or more is an httpx.HTTPStatusError whose text has the server's words."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http
        self._paths: dict[tuple[str, str], tuple[str, bool]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes its connections."""
        self.http.close()

    # -- by path

    def get(self, path: str, **query: str) -> Json:
        """An object or a list."""
        return self._told(self.http.get(path, params=query))

    def exists(self, path: str) -> bool:
        """Whether there is an object at `path`."""
        answer = self.http.get(path)
        if answer.status_code == httpx.codes.NOT_FOUND:
            return False
        self._told(answer)
        return True

    def create(self, path: str, body: Json) -> Json:
        """POST to the path of a kind, or to a subresource."""
        return self._told(self.http.post(path, json=body, params={"fieldValidation": "Strict"}))

    def merge(self, path: str, body: Json) -> Json:
        """JSON merge patch of an object, or of its status when the path ends so."""
        return self._told(
            self.http.patch(path, content=orjson.dumps(body), headers={"Content-Type": "application/merge-patch+json"})
        )

    def delete(self, path: str, **query: str) -> None:
        """Deletes an object, in the background as `kubectl` does; that there is none is no error."""
        query.setdefault("propagationPolicy", "Background")
        answer = self.http.delete(path, params=query)
        if answer.status_code != httpx.codes.NOT_FOUND:
            self._told(answer)

    def wait(self, path: str, until: Callable[[Json], Any], seconds: float = WAIT_S, **query: str) -> Json:
        """What is at `path` once `until` holds of it; AssertionError with what it was last when that takes too long.

        It need not exist yet: nothing is then asked of it.
        """
        end = time.monotonic() + seconds
        pause = threading.Event()
        while True:
            answer = self.http.get(path, params=query)
            found = None if answer.status_code == httpx.codes.NOT_FOUND else self._told(answer)
            if found is not None and until(found):
                return found
            if time.monotonic() > end:
                raise AssertionError(f"{path} is not as wanted after {seconds:g} s; it is {found}")
            pause.wait(0.05)

    # -- by document

    def apply(self, document: Json, manager: str = MANAGER) -> Json:
        """Server-side apply of a whole document, its namespace in it; conflicts are forced."""
        query = {"fieldManager": manager, "force": "true", "fieldValidation": "Strict"}
        headers = {"Content-Type": "application/apply-patch+yaml"}
        return self._told(
            self.http.patch(self.path(document), content=orjson.dumps(document), params=query, headers=headers)
        )

    def path(self, document: Json) -> str:
        """Where a document belongs: asked of the API server, once per kind."""
        version, kind, about = document["apiVersion"], document["kind"], document["metadata"]
        if (version, kind) not in self._paths:
            base = f"/apis/{version}" if "/" in version else f"/api/{version}"
            for one in self.get(base)["resources"]:
                if "/" not in one["name"]:
                    self._paths[version, one["kind"]] = f"{base}/{{}}{one['name']}", one["namespaced"]
        where, namespaced = self._paths[version, kind]
        within = f"namespaces/{about.get('namespace', 'default')}/" if namespaced else ""
        return f"{where.format(within)}/{about['name']}"

    @staticmethod
    def _told(answer: httpx.Response) -> Json:
        if answer.is_error:
            raise httpx.HTTPStatusError(
                f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text[:2000]}",
                request=answer.request,
                response=answer,
            )
        told: Json = answer.json()
        return told

"""The part of config.yaml that says where health and metrics are told, and which addresses must differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from daemon.parts import Part

EVERYWHERE = frozenset({"0.0.0.0", "::", ""})  # noqa: S104 - compared with, never listened on


class WebConfig(Part):
    """Where GET /healthz, /readyz and /metrics answer."""

    host: str = "127.0.0.1"
    """Nobody is asked for a password: anything but loopback is for networks that only probes and Prometheus reach."""
    port: int = Field(default=8800, ge=0, le=65_535)
    """0: any that is free; `driftd status` says which."""


def _off(written: Any) -> Any:
    return None if written == "off" else written


Web = Annotated[WebConfig | None, BeforeValidator(_off)]
"""`off`: nowhere."""


def clashes(addresses: Mapping[str, tuple[str, int]]) -> Iterator[tuple[str, str]]:
    """Of listeners, as their part of config.yaml is called, those whose address one before them has; each with what is
    wrong with it.
    """
    before: dict[str, tuple[str, int]] = {}
    for name, (host, port) in addresses.items():
        for other, (their, number) in before.items():
            if port and port == number and (host == their or EVERYWHERE & {host, their}):
                yield name, f"{name} and {other} cannot both listen on port {port} of {host}; give {name} another port"
        before[name] = (host, port)

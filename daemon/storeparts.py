"""The part of config.yaml that is about the store: a file of this machine, or a PostgreSQL that several daemons share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Literal

from pydantic import Field

from daemon.documents import Where
from daemon.parts import Duration, Part, Secret


class StoreConfig(Part):
    """Where driftd keeps its events, decisions, runs and audit."""

    kind: Literal["sqlite", "postgres"] = "sqlite"
    path: Path = Path("store.db")
    """sqlite: the file, relative to `home`."""
    host: str = ""
    """postgres: the server's name or address, several with commas between; or the folder of its Unix socket."""
    port: int = Field(default=5432, ge=1, le=65535)
    database: str = "driftd"
    """Its owner is `user`; driftd makes the tables."""
    user: str = "driftd"
    password: Secret | None = None
    tls: Literal["disable", "prefer", "require", "verify-ca", "verify-full"] = "prefer"
    """libpq's `sslmode`."""
    ca: Path | None = None
    """Who may have signed the server's certificate, as a PEM file; relative to config.yaml."""
    url: Secret | None = None
    """postgres: all of the above as one `postgresql://…` address instead, a secret because the password is in it."""
    lease: Duration = timedelta(seconds=60)
    """postgres: after so long without a word the leader has lost the lead, and another daemon takes over. It is renewed six
    times in that time. Longer than `registry: timeout`, so that a call to the registry ends while its caller leads."""
    readers: int = Field(default=8, ge=2, le=64)
    """postgres: most connections for reading, per process; two more are for writing and for the lease."""


def contradictions(store: StoreConfig, registry_timeout: timedelta) -> Iterator[tuple[Where, str]]:
    """What is wrong between the parts, with its place in config.yaml."""
    if store.kind == "sqlite":
        named = store.model_fields_set - {"kind", "path"}
        if named:
            yield ("store", min(named)), f"store: {', '.join(sorted(named))} is of kind postgres"
        return
    if "path" in store.model_fields_set:
        yield ("store", "path"), "store: path is of kind sqlite"
    if (store.url is None) == (not store.host):
        yield ("store",), "store: kind postgres needs either host or url"
    if store.tls.startswith("verify") and store.ca is None and store.url is None:
        yield ("store", "tls"), f"store: tls {store.tls} needs ca, the certificate to verify against"
    if store.lease < timedelta(seconds=2):
        yield ("store", "lease"), "store: a lease of less than 2s is lost by every pause"
    elif store.lease * 5 <= registry_timeout * 6:
        yield (
            ("store", "lease"),
            f"store: the lease must be longer than registry: timeout by more than a fifth; that is {registry_timeout}",
        )


def rooted(store: StoreConfig, home: Path, root: Path) -> StoreConfig:
    """The same with absolute paths."""
    paths = {"path": home / store.path} if store.kind == "sqlite" else {}
    return store.model_copy(update=paths if store.ca is None else {**paths, "ca": root / store.ca})


def filled(store: StoreConfig, fill: Callable[[Secret, Where], Secret]) -> StoreConfig:
    """The same with its secrets, as `fill` looks them up."""
    found = {
        role: fill(secret, ("store", role))
        for role in ("password", "url")
        if (secret := getattr(store, role)) is not None
    }
    return store.model_copy(update=found)


def conninfo(store: StoreConfig) -> str:
    """Libpq's connection string; with the password, so it is for nobody to see."""
    if store.url is not None:
        return store.url.value.get_secret_value()
    words = {
        "host": store.host,
        "port": str(store.port),
        "dbname": store.database,
        "user": store.user,
        "sslmode": store.tls,
    }
    if store.password is not None:
        words["password"] = store.password.value.get_secret_value()
    if store.ca is not None:
        words["sslrootcert"] = str(store.ca)
    return " ".join(f"{word}='{_quoted(value)}'" for word, value in words.items())


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "\\'")

"""`store:` of config.yaml: what it may not say, and that its secrets are nobody's to see."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from daemon.config import Config, load_config
from daemon.core.errors import ConfigError
from daemon.storeparts import conninfo


def loaded(folder: Path, store: str, **how: bool) -> Config:
    """config.yaml with that store."""
    (folder / "config.yaml").write_text(f"home: home\nstore: {store}\n")
    return load_config(folder / "config.yaml", {"PASSWORD": "it's \\ secret"}, **how)


@pytest.mark.parametrize(
    ("store", "why"),
    [
        ("{kind: postgres}", "needs either host or url"),
        ("{kind: postgres, host: db, url: {env: PASSWORD}}", "needs either host or url"),
        ("{kind: postgres, host: db, path: x.db}", "path is of kind sqlite"),
        ("{host: db}", "host is of kind postgres"),
        ("{kind: postgres, host: db, lease: 30s}", "longer than registry: timeout"),
        ("{kind: postgres, host: db, lease: 1s}", "lost by every pause"),
        ("{kind: postgres, host: db, tls: verify-full}", "needs ca"),
        ("{kind: postgres, host: db, password: {env: NOT_THERE}}", "NOT_THERE is not set"),
        ("{kind: postgres, host: db, password: secret}", "password"),
    ],
)
def test_what_a_store_may_not_say(tmp_path: Path, store: str, why: str) -> None:
    """Each contradiction is a mistake with its place."""
    with pytest.raises(ConfigError, match=why) as error:
        loaded(tmp_path, store)
    assert error.value.mistakes[0].line == 2


def test_the_password_is_masked_and_reaches_the_server_whole(tmp_path: Path) -> None:
    """No text of the configuration shows it; quotes and backslashes in it are the server's to read."""
    config = loaded(tmp_path, "{kind: postgres, host: db, ca: ca.pem, tls: verify-full, password: {env: PASSWORD}}")
    assert "secret" not in f"{config!r} {config}"
    told = psycopg.conninfo.conninfo_to_dict(conninfo(config.store))
    assert told == {
        "host": "db", "port": "5432", "dbname": "driftd", "user": "driftd", "password": "it's \\ secret",
        "sslmode": "verify-full", "sslrootcert": str(tmp_path / "ca.pem"),
    }  # fmt: skip


def test_commands_that_need_no_secrets_take_the_stores_where_it_is(tmp_path: Path) -> None:
    """They read the store; without its password they still check rules."""
    store = "{kind: postgres, host: db, password: {env: %s}}"
    assert "secret" in conninfo(loaded(tmp_path, store % "PASSWORD", with_secrets=False).store)
    assert "password=''" in conninfo(loaded(tmp_path, store % "NOT_THERE", with_secrets=False).store)

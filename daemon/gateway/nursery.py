"""The gateway's side of `preload`: the process that backends are forked from, kept alive."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Mapping
from pathlib import Path

import orjson

from daemon.gateway.state import Deployment

_LONGEST_WAIT = 10.0


class Nursery:
    """Starts and stops backends by way of the preloaded parent. When that dies, all backends died with it.

    The parent starts with the first backend: a gateway that serves nothing stays small.
    """

    def __init__(self, log: Path, timeout: float) -> None:
        """`timeout`: seconds after which nobody waits for a backend's answer any more."""
        self._log = log
        # MLflow's server gives up by itself a little later, so that the gateway's own verdict comes first.
        self._environment = {"MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT": str(int(timeout) + 5)}
        self._process: asyncio.subprocess.Process | None = None
        self._born: dict[str, asyncio.Future[str]] = {}
        """Living or asked-for backends: how each ended, once it has."""
        self._unsent: list[bytes] = []
        self._wanted = asyncio.Event()
        self._up = False
        """The parent has imported everything and listens."""

    def start(self, key: str, socket: Path, log: Path, deployment: Deployment) -> asyncio.Future[str]:
        """Have a backend started. The future tells how it ended; also when the parent died before it started."""
        request = {
            "start": key, "socket": str(socket), "model_uri": deployment.model_uri,
            "environment": self._environment | dict(deployment.environment), "log": str(log),
        }  # fmt: skip
        self._born[key] = asyncio.get_running_loop().create_future()
        self._wanted.set()
        self._send(request)
        return self._born[key]

    def stop(self, key: str, *, kill: bool) -> None:
        """End a backend; harmless when it is gone."""
        if key in self._born:
            self._send({"stop": key, "kill": kill})

    async def run(self) -> None:
        """Keep the parent alive until cancelled."""
        wait = 0.1
        while True:
            await self._wanted.wait()
            with self._log.open("ab") as log:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable, "-W", "ignore", "-m", "daemon.gateway.preload",
                    stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log, cwd=Path(__file__).parents[2],
                )  # fmt: skip
            try:
                for request in self._unsent:
                    self._write(request)
                self._unsent.clear()
                await self._listen(self._process)
                wait = 0.1 if self._up else wait
                await self._process.wait()
            except asyncio.CancelledError:
                await self._end(self._process)
                raise
            self._process, self._up = None, False
            self._wanted.clear()
            for key in list(self._born):
                self._tell(key, "the parent of all backends died, see gateway/preload.log")
            await asyncio.sleep(wait)
            wait = min(wait * 2, _LONGEST_WAIT)

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        """Hear what becomes of the backends until the parent is gone."""
        assert process.stdout is not None
        while line := await process.stdout.readline():
            message = orjson.loads(line)
            self._up = self._up or "ready" in message
            if "ended" in message:
                self._tell(message["ended"], message["how"])

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        process.stdin.close()  # it ends its children and itself, once it listens
        if not self._up and process.returncode is None:
            process.kill()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), 5)
        if process.returncode is None:
            process.kill()
            await process.wait()

    def _tell(self, key: str, how: str) -> None:
        future = self._born.pop(key, None)
        if future is not None and not future.done():
            future.set_result(how)

    def _send(self, request: Mapping[str, object]) -> None:
        line = orjson.dumps(request) + b"\n"
        if self._process is None or self._process.returncode is not None:
            self._unsent.append(line)
        else:
            self._write(line)

    def _write(self, line: bytes) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it just died; whoever waits for this is told when that is seen
            self._process.stdin.write(line)

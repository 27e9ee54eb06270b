"""Those who tell the daemon something and keep what it answered: a webhook's sender, an operator, whoever lands files.

Whoever got no answer sends the same again in the next life, as real senders do; every answer is kept.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import Any

import httpx
import orjson

from daemon.control import ask
from daemon.core.errors import DaemonError, StoreBusy
from daemon.sources.cloudevents import CloudEvent, event_of
from daemon.sources.signatures import SIGNATURE, TIMESTAMP, sign
from tests.crash.scene import HOOK, SECRET, Landing, Scene, landings, replace_file

JOBS_A_LIFE = 3
"""Landed files, and events that ask for work, at the start of a life and again every two seconds of it: each means a
job, which costs a tenth of a second of two cores.
"""


@dataclass(frozen=True, slots=True)
class Sent:
    """Something that was sent and is answered by the seqs of its events."""

    keys: tuple[str, ...]
    """`KIND|ID` of each event, in order, as the store has to have it."""
    body: Any
    by_hook: bool


@dataclass
class Senders:
    """All of them, for one scene; one thread."""

    scene: Scene
    random: Random
    acked: dict[int, str] = field(default_factory=dict)
    """seq -> the key of the event that was acked there."""
    acks: int = 0
    wrong: list[str] = field(default_factory=list)
    """Answers that contradict one another."""
    landed: list[str] = field(default_factory=list)
    """Paths of the files in the landing folder."""
    waiting: list[Sent] = field(default_factory=list)
    """Sent, and not answered yet."""
    _done: list[tuple[Sent, tuple[int, ...]]] = field(default_factory=list)
    _count: int = 0
    _work: int = 0
    _files: int = 0
    _stream: list[Landing] = field(default_factory=lambda: list(landings()))
    _client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=10, trust_env=False, verify=False))

    def act(self) -> None:
        """One thing, at random."""
        what = self.random.random()
        if what < 0.5:
            self._tell(self._events(1))
        elif what < 0.6:
            self._tell(self._events(3))
        elif what < 0.7:
            self._tell(self._word())
        elif what < 0.78 and self._done:
            self._again(*self.random.choice(self._done))
        elif what < 0.88:
            self._land()
        elif what < 0.94:
            self.scene.write_rules(self.random.choice(["2s", "3s", "4s"]))
        else:
            self.land_stream(1)

    def allow(self) -> None:
        """Some more files and events that mean jobs."""
        self._work, self._files = JOBS_A_LIFE, JOBS_A_LIFE

    def retry(self) -> None:
        """Send again what was not answered."""
        waiting, self.waiting = self.waiting, []
        for sent in waiting:
            self._tell(sent)

    def land_stream(self, count: int, *, dead: bool = False) -> None:
        """Land the next files of the measured stream. Label files only while the daemon is dead: the folders of labels
        and predictions are listed one after the other, and a file that lands in between would change the order in which
        they are read.
        """
        for _ in range(count):
            if self._stream and (dead or not self._stream[0].is_labels):
                self._stream.pop(0).land(self.scene)

    def land_rest(self) -> None:
        """Land all files of the stream that have not landed yet, while the daemon is dead."""
        self.land_stream(len(self._stream), dead=True)

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def _tell(self, sent: Sent) -> None:
        seqs = self._send(sent)
        if seqs is None:
            self.waiting.append(sent)
            return
        self.acks += 1
        self._done.append((sent, seqs))
        for seq, key in zip(seqs, sent.keys, strict=True):
            if self.acked.setdefault(seq, key) != key:
                self.wrong.append(f"seq {seq} was given to {self.acked[seq]} and to {key}")

    def _again(self, sent: Sent, before: tuple[int, ...]) -> None:
        """A repeat gets the receipt of the first time."""
        seqs = self._send(sent)
        if seqs is not None and seqs != before:
            self.wrong.append(f"{sent.keys} had the places {before}, and {seqs} when it was sent again")

    def _send(self, sent: Sent) -> tuple[int, ...] | None:
        return self._post(sent.body) if sent.by_hook else self._ask(sent.body)

    def _post(self, body: bytes) -> tuple[int, ...] | None:
        try:
            answer = post(self._client, self.scene, body)
        except httpx.HTTPError:
            return None
        if answer.status_code == 503:
            return None
        if answer.status_code != 202:
            self.wrong.append(f"a good event was answered with {answer.status_code} {answer.text}")
            return None
        return tuple(answer.json()["seqs"])

    def _ask(self, request: dict[str, Any]) -> tuple[int, ...] | None:
        try:
            answer = ask(self.scene.home, request, 10)
        except StoreBusy:
            return None
        except DaemonError as error:
            if type(error).__name__ != "Unavailable":
                self.wrong.append(f"an operator's word was answered with {error}")
            return None
        return (answer["seq"],)

    def _events(self, count: int) -> Sent:
        told = []
        for _ in range(count):
            self._count += 1
            kind = self.random.choice(["low", "low", "low", "high", "work"])
            if kind == "work":
                self._work -= 1
                kind = kind if self._work >= 0 else "low"
            told.append(CloudEvent(f"e{self._count}", "crash", kind, "", None, {"number": self._count}))
        body = [
            {"specversion": "1.0", "id": one.id, "source": one.source, "type": one.type, "data": one.data}
            for one in told
        ]
        return Sent(tuple(f"webhook|{_id(one)}" for one in told), orjson.dumps(body), by_hook=True)

    def _word(self) -> Sent:
        self._count += 1
        verb = self.random.choice(["quarantine", "release"])
        name = f"word{self._count}"
        request = {"op": "event", "id": name, "verb": verb, "target": "loan@77", "by": "ann", "reason": "a trial"}
        return Sent((f"operator|{name}",), request, by_hook=False)

    def _land(self) -> None:
        if self._files <= 0:
            return
        self._files -= 1
        path = self.scene.landing / f"f{len(self.landed):03}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, self.random.randbytes(40))
        self.landed.append(str(path))


def post(client: httpx.Client, scene: Scene, body: bytes) -> httpx.Response:
    """Send a signed batch of CloudEvents to the scene's webhook."""
    stamp = str(int(time.time()))
    headers = {
        "content-type": "application/cloudevents-batch+json", TIMESTAMP: stamp,
        SIGNATURE: sign(SECRET, stamp, (), body),
    }  # fmt: skip
    return client.post(f"http://127.0.0.1:{scene.hook_port}/hooks/{HOOK}", content=body, headers=headers)


def _id(told: CloudEvent) -> str:
    return event_of(HOOK, told, datetime.now(UTC)).id

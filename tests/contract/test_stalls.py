"""A source that does not reach its system: told once per stall, and over when it reaches it again."""

from __future__ import annotations

import threading
from datetime import timedelta

from daemon.core.schema import check_data
from daemon.intake import Intake
from daemon.sources.base import Health
from daemon.sources.delivery import Pulse
from daemon.sources.stalls import STALLED, Stall
from tests.contract.desk import Clock


class Quiet:
    """A source that reaches its system when it is told to."""

    name = "kafka:shop"

    def __init__(self, clock: Clock) -> None:
        self.pulse = Pulse(clock)

    def run(self, intake: Intake, stop: threading.Event) -> None:
        """Nothing comes."""

    def health(self) -> Health:
        """As the pulse has it."""
        return self.pulse.health()


def test_a_stall_is_told_once_and_over_when_the_source_is_back(clock: Clock) -> None:
    """One event per stall with its reason; what could not be stored is told again; a new stall is another event."""
    source = Quiet(clock)
    stall = Stall(source)
    assert stall.news(clock()) is None
    began = clock()
    clock.now += STALLED
    source.pulse.ails("no broker")
    news = stall.news(clock())
    assert news is not None
    assert news == stall.news(clock())  # it was not stored
    assert not stall.lasts
    assert check_data(news.type, news.data) == []
    assert news.data == {"source": "kafka:shop", "since": began.isoformat(), "why": "no broker"}
    stall.tell(news)
    clock.move(hours=1)
    assert stall.news(clock()) is None
    assert stall.lasts
    source.pulse.alive()
    assert stall.news(clock()) is None
    assert not stall.lasts
    clock.now += STALLED + timedelta(seconds=1)
    again = stall.news(clock())
    assert again is not None
    assert again.key != news.key


def test_what_lies_unread_does_not_change_the_rest(clock: Clock) -> None:
    """Lag and age are told beside whether it is alive."""
    pulse = Pulse(clock)
    pulse.alive("no topic")
    pulse.took()
    pulse.behind(7, clock())
    assert pulse.health() == Health(clock(), clock(), "no topic", 7, clock())

"""The ladder of verdicts, rung by rung."""

from __future__ import annotations

from dataclasses import replace

import pytest

from daemon.core.decisions import CATCH_UP, LONGEST_CHAIN, decide
from daemon.core.errors import BadInput
from daemon.core.events import CATALOGUE, Event
from daemon.core.rules import Mode, OnUnknown
from daemon.core.verdicts import Verdict, World
from tests.builders import (
    T0,
    at,
    count,
    landed,
    lasting,
    limit,
    measured,
    recorded,
    rule,
    rules,
    said,
    step,
    template,
    windows,
)
from tests.core.told import Asked


def runs(number: int) -> tuple[str, ...]:
    """A chain of so many runs."""
    return tuple(f"run-{index}" for index in range(number))


def loaded(number: int, started: bool = False) -> Event:
    """`rules.loaded`."""
    data = {"revision": "x", "commit": "", "rules": 1, "started": started}
    return Event(f"load-{number}", "driftd:rules", "rules.loaded", "", T0, data)


def test_an_event_that_meets_its_rule_fires_it() -> None:
    """The condition holds and nothing holds it back: FIRED, with the steps' inputs evaluated from the event."""
    steps = (step("train", rows=template("drift.measured", "{{ event.window.rows }}"), name="x"),)
    asked = Asked(rules(rule(steps=steps)))
    (decision,) = asked.record(0, measured(1, 3))
    assert Verdict.FIRED is decision.verdict
    assert decision.firing is not None
    assert decision.firing.steps[0][1] == {"rows": 100, "name": "x"}
    assert [(c.text, c.truth, c.reason) for c in decision.clauses] == [("event.drifted_columns >= 1", "true", "")]


def test_what_nobody_listens_to_is_not_decided() -> None:
    """An event without a rule for its type gives no decision."""
    asked = Asked(rules(rule()))
    assert asked.record(0, landed(1)) == []


def test_a_rule_hears_its_own_subject_only() -> None:
    """A rule with a subject is not asked about another's events."""
    asked = Asked(rules(rule(on="data.landed", when=(), subject="mine")))
    assert asked.record(0, landed(1, "yours")) == []
    assert asked.told(1, landed(2, "mine")) == "fired"


def test_what_a_run_on_the_same_model_caused_is_own() -> None:
    """A retrain's own consequences do not start it again, unless the rule asks for them."""
    shy, bold = rule("shy"), rule("bold", include_own=True)
    asked = Asked(rules(shy, bold))
    verdicts = [decision.verdict for decision in asked.record(0, measured(1, 3, chain=("run-1",)))]
    assert verdicts == [Verdict.OWN, Verdict.FIRED]


def test_the_end_of_a_run_is_never_own() -> None:
    """Listening to `run.finished` is asking for one's own events."""
    asked = Asked(rules(rule(on="run.finished", when=())))
    data = {"model": "churn", "run": "1", "rule": "x", "state": "failed", "reason": "", "version": ""}
    assert asked.told(0, Event("1", "driftd:runs", "run.finished", "churn", T0, data, ("1",))) == "fired"


@pytest.mark.parametrize(("length", "verdict"), [(LONGEST_CHAIN, "fired"), (LONGEST_CHAIN + 1, "loop")])
def test_a_chain_of_runs_ends(length: int, verdict: str) -> None:
    """So many runs may cause one another, and no more."""
    asked = Asked(rules(rule(include_own=True)))
    assert verdict == asked.told(0, measured(1, 3, chain=runs(length)))


def test_the_same_window_counts_once() -> None:
    """A window that was told before, or an older one, is REPEATED and changes nothing."""
    asked = Asked(rules(rule(hold=windows(2))))
    assert [asked.told(n, measured(last, 1)) for n, last in enumerate([10, 10, 9, 11])] == [
        "held",
        "repeated",
        "repeated",
        "fired",
    ]


def test_unknown_is_not_no() -> None:
    """An absent field leaves a streak as it is, and the decision says what was absent."""
    asked = Asked(rules(rule(hold=windows(2))))
    assert [asked.told(n, measured(n, drifted)) for n, drifted in enumerate([1, None, 1])] == [
        "held",
        "unknown",
        "fired",
    ]
    assert asked.log[1][1].why == "event.drifted_columns is absent"


def test_one_false_clause_decides_over_unknown_ones() -> None:
    """All clauses must hold, so one that does not is enough to know."""
    asked = Asked(rules(rule(when=("event.drifted_share >= 0.5", "event.drifted_columns >= 1"))))
    assert [asked.told(n, measured(n, drifted)) for n, drifted in enumerate([0, 1])] == ["not met", "unknown"]


def test_what_was_known_goes_stale() -> None:
    """After `stale_after` of not knowing, a streak starts over."""
    asked = Asked(rules(rule(hold=windows(2), stale_after=10)))
    verdicts = [asked.told(t, measured(t, drifted)) for t, drifted in [(0, 1), (1, None), (11, None), (12, 1), (13, 1)]]
    assert verdicts == ["held", "unknown", "unknown", "held", "fired"]


def test_a_rule_may_act_on_not_knowing() -> None:
    """`on_unknown: act` counts unknown as true."""
    asked = Asked(rules(rule(on_unknown=OnUnknown.ACT)))
    assert asked.told(0, measured(1, None)) == "fired"


def test_not_knowing_is_told_once() -> None:
    """`on_unknown: notify` runs `on_failure` once per stretch of unknowns, and with what is known of the inputs."""
    notice = (step("notify", to="ops", share=template("drift.measured", "{{ event.drifted_share }}")),)
    asked = Asked(rules(rule(on_unknown=OnUnknown.NOTIFY, on_failure=notice)))
    for n, drifted in enumerate([None, None, 0, None]):
        asked.told(n, measured(n, drifted))
    assert [decision.firing is not None for _, decision in asked.log] == [True, False, False, True]
    firing = asked.log[0][1].firing
    assert firing is not None
    assert firing.notice
    assert firing.steps == ()
    assert firing.on_failure[0][1] == {"to": "ops"}


@pytest.mark.parametrize("said_by_rule", [{"mode": Mode.OBSERVE}, {"on_failure": ()}])
def test_who_only_observes_tells_nobody(said_by_rule: dict[str, object]) -> None:
    """`mode: observe` starts nothing, not even a notice; neither does a rule with nothing to tell."""
    notice = {"on_failure": (step("notify"),), **said_by_rule}
    asked = Asked(rules(rule(on_unknown=OnUnknown.NOTIFY, **notice)))
    assert asked.told(0, measured(1, None)) == "unknown"
    assert asked.log[0][1].firing is None


def test_an_episode_ends_when_the_condition_does() -> None:
    """Without `clear` an episode is over once `when` is false; then it may fire again."""
    asked = Asked(rules(rule()))
    assert [asked.told(n, measured(n, drifted)) for n, drifted in enumerate([1, 1, 0, 0, 1])] == [
        "fired",
        "episode",
        "cleared",
        "not met",
        "fired",
    ]


def test_an_episode_with_clear_ends_when_that_holds() -> None:
    """Hysteresis: between `when` and `clear` the episode goes on, and an unknown `clear` ends nothing."""
    asked = Asked(rules(rule(when=("event.drifted_columns >= 3",), clear="event.worst_effect < 1.0")))
    told = [(3, 2.0), (1, 2.0), (3, None), (1, None), (1, 0.5), (3, 2.0)]
    assert [asked.told(n, measured(n, drifted, worst_effect=effect)) for n, (drifted, effect) in enumerate(told)] == [
        "fired",
        "not met",
        "episode",
        "not met",
        "cleared",
        "fired",
    ]


def test_what_happens_has_no_episode() -> None:
    """Each registration is one of its own: a second bad version fires the rule as the first did."""
    asked = Asked(rules(rule(on="model.registered", when=('event.registered_by == ""',))))
    for number in range(3):
        data = {"model": "churn", "registry": "churn", "version": str(number), "created": "1", "registered_by": ""}
        assert (
            asked.told(number, Event(str(number), "registry:mlflow", "model.registered", "churn", T0, data)) == "fired"
        )


def test_counted_events_are_used_up_by_a_firing() -> None:
    """`count: 2 within 10s` over events that happen fires at every second one."""
    asked = Asked(rules(rule(on="data.landed", when=(), count=count(2, 10))))
    assert [
        asked.told(t, landed(t)) for t in (0, 1, 2, 3, 4, 14)
    ] == ["held", "fired", "held", "fired", "held", "held"]  # fmt: skip


def test_an_occurrence_with_repeat_is_held_back() -> None:
    """A rule that says `repeat` wants an episode, whatever it listens to."""
    asked = Asked(rules(rule(on="data.landed", when=(), repeat=10)))
    assert [asked.told(t, landed(t)) for t in (0, 9, 10)] == ["fired", "episode", "fired"]


@pytest.mark.parametrize(
    ("hold", "held", "verdicts"),
    [
        (windows(2), [1, 1], ["held", "fired"]),
        (windows(2), [1, 0, 1, 1], ["held", "not met", "held", "fired"]),
        (windows(2, 3), [1, 0, 1], ["held", "not met", "fired"]),
        (windows(2, 3), [1, 0, 0, 1], ["held", "not met", "not met", "held"]),
        (windows(2, 3), [1, 1, 0], ["held", "fired", "cleared"]),
    ],
)
def test_windows_are_counted(hold: object, held: list[int], verdicts: list[str]) -> None:
    """`for: n windows` and `for: k of n windows`; a window in which it does not hold never fires."""
    asked = Asked(rules(rule(hold=hold)))
    assert verdicts == [asked.told(n, measured(n, drifted)) for n, drifted in enumerate(held)]


def test_a_duration_fires_by_itself() -> None:
    """`for: 10s` fires when its time has come, without another event, on the event that began it."""
    asked = Asked(rules(rule(hold=lasting(10))))
    assert asked.told(0, measured(1, 1)) == "held"
    ((when, decision),) = asked.until(100)
    assert (when, decision.verdict) == (10, Verdict.FIRED)
    assert decision.firing is not None
    assert decision.firing.trigger.id == "m-1"


def test_a_duration_is_broken_by_one_no() -> None:
    """A streak that ended before its time fires nothing."""
    asked = Asked(rules(rule(hold=lasting(10))))
    asked.told(0, measured(1, 1))
    asked.told(9, measured(2, 0))
    assert asked.until(100) == []


def test_a_duration_does_not_fire_on_stale_knowledge() -> None:
    """When the time comes and nothing was known for `stale_after`, the streak is over."""
    asked = Asked(rules(rule(hold=lasting(10), stale_after=5)))
    asked.told(0, measured(1, 1))
    asked.told(4, measured(2, None))
    assert [(when, decision.verdict) for when, decision in asked.until(100)] == [(10, Verdict.UNKNOWN)]


def test_not_knowing_is_told_once_even_when_it_makes_a_streak_stale() -> None:
    """The notice of a stretch of unknowns is not repeated because a time came in the middle of it."""
    asked = Asked(
        rules(rule(hold=lasting(10), stale_after=5, on_unknown=OnUnknown.NOTIFY, on_failure=(step("notify"),)))
    )
    for t, drifted in [(0, 1), (4, None), (11, None)]:
        asked.told(t, measured(t, drifted))
    assert [(t, bool(decision.firing)) for t, decision in asked.log] == [
        (0, False),
        (4, True),
        (10, False),
        (11, False),
    ]


def test_what_no_rule_reads_harms_nobody() -> None:
    """A field of the wrong type costs the rules that read it, and no others."""
    asked = Asked(rules(rule()))
    assert asked.told(0, measured(1, 1, drifted_share="much", columns=3)) == "fired"
    with pytest.raises(BadInput, match="drifted_share"):
        Asked(rules(rule(when=("event.drifted_share > 0.5",)))).told(0, measured(1, 1, drifted_share="much"))


def test_cooldown_keeps_a_rule_armed() -> None:
    """In cooldown nothing fires, and no episode opens: afterwards the next event fires."""
    asked = Asked(rules(rule(cooldown=10)))
    assert [asked.told(t, measured(t, drifted)) for t, drifted in [(0, 1), (1, 0), (2, 1), (10, 1)]] == [
        "fired",
        "cleared",
        "cooldown",
        "fired",
    ]


def test_limit_counts_firings() -> None:
    """`limit: 2 per 100s`."""
    asked = Asked(rules(rule(on="data.landed", when=(), limit=limit(2, 100))))
    assert [
        asked.told(t, landed(t)) for t in (0, 50, 99, 100, 101)
    ] == ["fired", "fired", "limit", "fired", "limit"]  # fmt: skip


def test_a_pause_holds_everything_but_observers() -> None:
    """While driftd is paused rules count on but start nothing; the next event after it fires."""
    asked = Asked(rules(rule("acts"), rule("looks", mode=Mode.OBSERVE)))
    asked.record(0, said("pause"))
    assert [d.verdict for d in asked.record(1, measured(1, 1))] == [Verdict.PAUSED, Verdict.OBSERVED]
    asked.record(2, said("resume", number=1))
    assert [d.verdict for d in asked.record(3, measured(2, 1))] == [Verdict.FIRED, Verdict.EPISODE]


def test_a_pause_of_one_target_is_not_a_pause_of_all() -> None:
    """Only a pause without a target stops the rules."""
    asked = Asked(rules(rule()))
    asked.record(0, said("pause", "something"))
    assert asked.told(1, measured(1, 1)) == "fired"


def test_a_duration_that_ends_in_a_pause_is_asked_again() -> None:
    """A time that comes while driftd is paused is not lost."""
    asked = Asked(rules(rule(hold=lasting(10))))
    asked.told(0, measured(1, 1))
    asked.until(5)
    asked.record(5, said("pause"))
    asked.until(100)
    asked.record(100, said("resume", number=1))
    asked.until(1000)
    assert asked.firings() == [300]


def test_a_rule_that_observes_remembers_as_if_it_had_fired() -> None:
    """`mode: observe` opens an episode and starts the cooldown, and asks for nothing."""
    asked = Asked(rules(rule(mode=Mode.OBSERVE)))
    assert [asked.told(n, measured(n, 1)) for n in (1, 2)] == ["observed", "episode"]
    assert [decision.firing for _, decision in asked.log] == [None, None]


def test_an_input_that_cannot_be_computed_starts_nothing() -> None:
    """A step whose input is unknown is not started without it: UNKNOWN, with the step and what is absent."""
    steps = (step("train", share=template("drift.measured", "{{ event.drifted_share }}")),)
    asked = Asked(rules(rule(steps=steps)))
    assert asked.told(0, measured(1, 1)) == "unknown"
    assert asked.log[0][1].why == "train: event.drifted_share is absent"
    assert asked.told(1, measured(2, 1, drifted_share=0.5)) == "fired"


def test_a_refused_firing_leaves_the_rule_armed() -> None:
    """When nothing could be started, cooldown, limit and episode are as if nothing had fired."""
    asked = Asked(rules(rule(cooldown=100, limit=limit(1, 100))), refuse=True)
    assert asked.told(0, measured(1, 1)) == "fired"
    asked.refuse = False
    assert [asked.told(n, measured(n + 1, 1)) for n in (1, 2)] == ["fired", "episode"]


def test_silence_that_could_not_start_anything_is_tried_again() -> None:
    """A refused firing of a rule that waits for a time is asked again, as no event will come to do it."""
    asked = Asked(rules(rule(on="data.landed", when=(), subject="landing", absent=20)), refuse=True)
    asked.told(0, landed(1))
    asked.until(100)
    asked.refuse = False
    asked.until(2000)
    assert asked.firings() == [20, 300]


def test_the_streak_tells_where_it_began() -> None:
    """`streak.start` is the event time of the oldest window in which it held."""
    steps = (step("train", since=template("drift.measured", "{{ streak.start }}")),)
    asked = Asked(rules(rule(hold=windows(2, 3), steps=steps)))
    for n, drifted in enumerate([0, 1, 0, 1]):
        asked.told(n, measured(10 * n, drifted))
    firing = asked.log[-1][1].firing
    assert firing is not None
    assert {"since": at(10).isoformat()} == firing.steps[0][1]


def test_keys_are_apart() -> None:
    """Each monitor, and each value of `for_each`, has a memory of its own."""
    asked = Asked(rules(rule(hold=windows(2), for_each=("event.worst_column",))))
    told = [("a", "x"), ("b", "x"), ("a", "y"), ("a", "x")]
    assert [
        asked.told(n, measured(n, 1, monitor=monitor, worst_column=column)) for n, (monitor, column) in enumerate(told)
    ] == ["held", "held", "held", "fired"]
    assert {"a|churn||x", "b|churn||x", "a|churn||y"} == {key for _, key in asked.memory}


def test_silence_counts_from_the_loading_of_the_rule() -> None:
    """What never came is absent too."""
    asked = Asked(rules(rule(on="data.landed", when=(), subject="landing", absent=20)))
    asked.record(0, loaded(1))
    asked.until(1000)
    assert asked.firings() == [20]


def test_loading_again_does_not_restart_silence() -> None:
    """A reload of the same rule leaves the wait as it is."""
    asked = Asked(rules(rule(on="data.landed", when=(), subject="landing", absent=20)))
    asked.record(0, loaded(1))
    asked.record(15, loaded(2))
    asked.until(1000)
    assert asked.firings() == [20]


def test_something_under_a_key_of_its_own_ends_the_first_wait_for_good() -> None:
    """A measured rule's events have the monitor in their key: the wait that began with the rule must not alarm beside them."""
    asked = Asked(rules(rule(when=(), absent=20)))
    asked.record(0, loaded(1))
    for second in range(10, 100, 10):
        asked.told(second, measured(second))
    assert asked.firings() == []
    asked.record(95, loaded(2))
    asked.until(1000)
    assert asked.firings() == [110]
    assert asked.log[-1][1].key == "m|churn|"


def test_after_a_start_silence_proves_nothing_at_once() -> None:
    """The sources get a minute to bring what came while nobody listened."""
    asked = Asked(rules(rule(on="data.landed", when=(), subject="landing", absent=20)))
    asked.told(0, landed(1))
    asked.record(19, loaded(1, started=True))
    asked.until(1000)
    assert [19 + CATCH_UP.total_seconds()] == asked.firings()


def test_many_events_are_one_due_time() -> None:
    """An `absent` rule has one due time at a time, however many events come."""
    asked = Asked(rules(rule(on="data.landed", when=(), subject="landing", absent=20)))
    for number in range(50):
        asked.told(number / 10, landed(number))
        assert len(asked.dues) == 1


def test_an_edited_rule_starts_over_but_keeps_its_firings() -> None:
    """Changed semantics re-arm the condition; the cooldown goes on by the rule's name."""
    asked = Asked(rules(rule(hold=windows(2), cooldown=100)))
    assert [asked.told(n, measured(n, 1)) for n in (1, 2)] == ["held", "fired"]
    asked.rules = rules(rule(when=("event.drifted_columns >= 2",), hold=windows(2), cooldown=100))
    assert [asked.told(n, measured(n, 2)) for n in (3, 4)] == ["held", "cooldown"]


def test_due_times_of_an_edited_or_removed_rule_do_nothing() -> None:
    """A timer of a rule that is no longer there, or decides differently now, is stored and ignored."""
    asked = Asked(rules(rule(hold=lasting(10))))
    asked.told(0, measured(1, 1))
    asked.rules = rules(rule(hold=lasting(5)))
    assert asked.until(20) == []
    asked.told(20, measured(2, 1))
    asked.rules = rules()
    assert asked.until(100) == []


def test_a_measurement_without_its_window_is_refused() -> None:
    """A window that does not say where it ends cannot be told from the next: the event is bad input, with its source."""
    event = measured(1, 1)
    broken = replace(event, data={**event.data, "window": {"rows": 3}})
    with pytest.raises(BadInput, match=r"monitor:m.*window"):
        decide(rules(rule()), lambda _rule, _key: None, recorded(1, T0, broken), World())


def test_deciding_changes_nothing_it_was_given() -> None:
    """`decide` is a function: asked twice, it answers twice the same."""
    asked = Asked(rules(rule(hold=windows(2), cooldown=5)))
    asked.told(0, measured(1, 1))
    told = recorded(2, at(1), measured(2, 1))
    once, twice = (decide(asked.rules, lambda r, k: asked.memory.get((r, k)), told, World()) for _ in range(2))
    assert once == twice


def test_every_type_that_measures_is_lasting() -> None:
    """Types with a window or a block tell how things stand; no other does."""
    measures = {name for name in CATALOGUE if name.endswith(".measured")}
    assert measures == {name for name, kind in CATALOGUE.items() if kind.lasting}

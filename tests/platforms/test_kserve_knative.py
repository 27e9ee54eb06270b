"""The sequences of Knative mode against a played KServe: each trap, and random orders of everything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from daemon.platforms.kserve import knative
from daemon.platforms.kserve.book import Book
from daemon.platforms.kserve.steps import Refuse, Settled, Step, Wait, Write
from tests.platforms.played_knative import PlayedKnative, after_a_promotion

VERSIONS = {str(number): f"s3://{number}" for number in range(10)}


@dataclass
class Driver:
    """Does with a played cluster what the platform does with a real one: looks, plans, keeps the book, writes."""

    played: PlayedKnative
    book: Book = field(default_factory=lambda: Book(versions=VERSIONS))
    writes: list[Mapping[str, object]] = field(default_factory=list)

    def step(self, goal: Callable[[knative.Seen, Book], Step], lose: bool = False) -> Step:
        """One step; `lose`: the daemon dies after the book was kept."""
        step = goal(self.played.seen(), self.book)
        if isinstance(step, Write):
            self.book = step.book
            if not lose:
                predictor = step.body["spec"]["predictor"]
                self.writes.append(predictor)
                self.played.patch(predictor)
        return step

    def until_settled(self, goal: Callable[[knative.Seen, Book], Step]) -> None:
        """Step by step, with controllers that keep up."""
        for _ in range(20):
            if isinstance(self.step(goal), Settled):
                return
            self.played.settle()
        raise AssertionError(f"never settled: {self.step(goal)}")


def loading(version: str) -> Callable[[knative.Seen, Book], Step]:
    """The goal: a version beside the others."""
    return lambda view, book: knative.load(view, book, version)


def splitting(weights: Mapping[str, float]) -> Callable[[knative.Seen, Book], Step]:
    """The goal: a split."""
    return lambda view, book: knative.split(view, book, weights)


@pytest.fixture
def driver() -> Driver:
    """Version 1 serves, and version 0 did before."""
    return Driver(after_a_promotion())


def test_a_canary_goes_up_and_is_promoted(driver: Driver) -> None:
    """A version is loaded with no traffic, gets the shares that are asked for, then everything, and is the base then."""
    driver.until_settled(loading("2"))
    driver.played.settle()
    assert (driver.played.share("s3://2"), driver.played.share("s3://1")) == (0, 100)
    for percent in (5, 50):
        driver.until_settled(splitting({"2": percent, "1": 100 - percent}))
        assert (driver.played.share("s3://2"), driver.played.share("s3://1")) == (percent, 100 - percent)
    driver.until_settled(splitting({"2": 100}))
    driver.until_settled(knative.rest)
    assert driver.played.share("s3://2") == 100
    assert driver.played.percent is None
    assert (driver.played.rolled_out, driver.played.previous) == ("r3", "r2")


def test_model_and_percent_change_in_one_patch(driver: Driver) -> None:
    """The write that loads a model has its percent in it, and the model's version for the payload logger."""
    driver.step(loading("2"))
    wanted = {"canaryTrafficPercent": 0, "model": {"storageUri": "s3://2"}, "labels": {"endpoint": "2"}}
    assert driver.writes == [wanted]


def test_percent_first_would_go_to_the_model_before(driver: Driver) -> None:
    """What driftd never writes: a percent over an unchanged model sends the rest to the model before last."""
    driver.played.patch({"canaryTrafficPercent": 5})
    driver.played.settle()
    assert driver.played.share("s3://0") == 95


def test_a_percent_alone_over_a_promoted_model_is_refused(driver: Driver) -> None:
    """A split with the old champion after a promotion would go to the one before: it is refused, in words."""
    driver.until_settled(loading("2"))
    driver.played.settle()
    driver.until_settled(splitting({"2": 100}))
    step = driver.step(splitting({"2": 95, "1": 5}))
    assert isinstance(step, Refuse)
    assert "load the new version first" in step.why


def test_a_canary_is_taken_back_in_three_writes(driver: Driver) -> None:
    """0 % alone, then the old model at 0 %, then, when it is ready, no percent: the canary gets nothing at any time."""
    driver.until_settled(loading("2"))
    driver.played.settle()
    driver.until_settled(splitting({"2": 5, "1": 95}))
    driver.writes.clear()
    driver.until_settled(splitting({"1": 100}))
    assert driver.writes == [{"canaryTrafficPercent": 0}]
    assert driver.played.share("s3://1") == 100
    step = driver.step(knative.rest)
    assert isinstance(step, Write)
    assert driver.writes[1:] == [
        {"canaryTrafficPercent": 0, "model": {"storageUri": "s3://1"}, "labels": {"endpoint": "1"}}
    ]
    driver.played.kserve()
    driver.played.configuration()
    assert isinstance(driver.step(knative.rest), Wait), "the old model is not ready yet"
    driver.played.routes()
    assert driver.played.share("s3://2") == 0
    driver.until_settled(knative.rest)
    assert driver.writes[2:] == [{"canaryTrafficPercent": None}]
    assert driver.played.share("s3://1") == 100
    assert "s3://2" not in {
        driver.played.seen().revision(name).uri for name in (driver.played.rolled_out, driver.played.previous)
    }


def test_a_rollback_in_one_patch_would_give_the_canary_everything(driver: Driver) -> None:
    """What driftd never writes: old model and no percent at once sends all traffic to the canary, and makes it the base."""
    driver.until_settled(loading("2"))
    driver.played.settle()
    driver.until_settled(splitting({"2": 5, "1": 95}))
    driver.played.patch({"model": {"storageUri": "s3://1"}, "canaryTrafficPercent": None})
    driver.played.kserve()
    driver.played.routes()
    assert driver.played.share("s3://2") == 100
    driver.played.service()
    driver.played.kserve()
    assert driver.played.seen().revision(driver.played.rolled_out).uri == "s3://2"


def test_a_promotion_is_taken_back_to_the_model_before(driver: Driver) -> None:
    """After 100 %, 0 % alone goes back to the model before; then that becomes the newest again."""
    driver.until_settled(loading("2"))
    driver.played.settle()
    driver.until_settled(splitting({"2": 100}))
    assert knative.standing(driver.played.seen(), driver.book).ready == {"2": True, "1": True}
    driver.writes.clear()
    driver.until_settled(splitting({"1": 100}))
    assert driver.writes == [{"canaryTrafficPercent": 0}]
    assert driver.played.share("s3://1") == 100
    driver.until_settled(knative.rest)
    assert driver.played.share("s3://1") == 100
    assert driver.played.uri == "s3://1"


def test_the_model_before_is_only_gone_back_to_when_it_is_the_expected_one(driver: Driver) -> None:
    """A version that is neither the newest nor the one before it has to be loaded again first."""
    driver.until_settled(loading("2"))
    driver.played.settle()
    driver.until_settled(splitting({"2": 100}))
    driver.until_settled(loading("3"))
    driver.played.settle()
    driver.until_settled(splitting({"3": 100}))
    step = driver.step(splitting({"1": 100}))
    assert isinstance(step, Refuse)
    assert "not loaded" in step.why


def test_a_revision_that_is_gone_is_not_gone_back_to(driver: Driver) -> None:
    """Knative removes old revisions: without the revision before there is no way back but loading anew."""
    view = driver.played.seen()
    without = replace(view, revisions={name: one for name, one in view.revisions.items() if name != view.previous})
    step = knative.split(without, driver.book, {"0": 100})
    assert isinstance(step, Refuse)
    assert "0" not in knative.standing(without, driver.book).ready


def test_a_wrong_base_is_found_and_the_stable_model_brought_back(driver: Driver) -> None:
    """A status that lags makes KServe take the model before last as the base: the canary counts as not loaded, gets no
    traffic, and the stable model is made the newest again; then the canary is loaded anew.
    """
    driver.step(loading("2"))
    driver.played.kserve()
    driver.played.routes()
    driver.played.service()  # the route's status, beside the old configuration's
    driver.played.kserve()
    assert driver.played.seen().revision(driver.played.rolled_out).uri == "s3://0"
    standing = knative.standing(driver.played.seen(), driver.book)
    assert "2" not in standing.ready
    assert "base" in standing.problems["2"]
    refused = driver.step(splitting({"2": 5, "1": 95}))
    assert not isinstance(refused, Write | Settled)
    driver.writes.clear()
    driver.until_settled(loading("2"))
    assert [one.get("model", {}).get("storageUri") for one in driver.writes] == ["s3://1", None, "s3://2"]
    driver.until_settled(splitting({"2": 5, "1": 95}))
    assert (driver.played.share("s3://2"), driver.played.share("s3://1")) == (5, 95)


def test_a_canary_that_was_given_up_is_cleared_away_before_the_next(driver: Driver) -> None:
    """The next canary's share never goes to the last one, which is still the newest that is ready."""
    driver.until_settled(loading("2"))
    driver.played.settle()
    driver.until_settled(splitting({"2": 5, "1": 95}))
    driver.until_settled(splitting({"1": 100}))
    driver.writes.clear()
    driver.until_settled(loading("3"))
    assert [one.get("model", {}).get("storageUri") for one in driver.writes] == ["s3://1", None, "s3://3"]
    driver.until_settled(splitting({"3": 5, "1": 95}))
    assert driver.played.share("s3://2") == 0


def test_the_next_canary_over_one_that_was_given_up_would_send_its_share_there(driver: Driver) -> None:
    """What driftd never writes: until the new revision is ready, its percent goes to the canary that was given up."""
    driver.until_settled(loading("2"))
    driver.played.settle()
    driver.until_settled(splitting({"1": 100}))
    driver.played.patch({"model": {"storageUri": "s3://3"}, "canaryTrafficPercent": 20})
    driver.played.kserve()
    driver.played.routes()
    assert driver.played.share("s3://2") == 20


def test_a_canary_gets_nothing_before_its_own_revision_is_the_newest_that_is_ready(driver: Driver) -> None:
    """Until then `latestRevision` is another model: nothing is written."""
    driver.step(loading("2"))
    driver.played.kserve()
    assert isinstance(driver.step(splitting({"2": 5, "1": 95})), Wait)
    driver.played.configuration()
    driver.played.service()
    driver.played.kserve()
    assert isinstance(driver.step(splitting({"2": 5, "1": 95})), Wait)
    assert knative.standing(driver.played.seen(), driver.book).ready == {"1": True, "2": False}


@pytest.mark.parametrize(
    ("annotation", "value", "word"),
    [
        ("serving.kserve.io/disable-auto-update", "true", "ignore"),
        ("serving.kserve.io/stop", "true", "stopped"),
    ],
)
def test_annotations_that_make_writes_void_are_refused(driver: Driver, annotation: str, value: str, word: str) -> None:
    """KServe would not do what is written: nothing is, with the reason."""
    driver.played.annotations[annotation] = value
    for goal in (loading("2"), splitting({"1": 100}), knative.rest):
        step = driver.step(goal)
        assert isinstance(step, Refuse)
        assert word in step.why
    assert not driver.writes


def test_an_old_name_of_the_mode_is_put_right_in_the_same_patch(driver: Driver) -> None:
    """KServe's webhook refuses every update while the annotation has the old name and the status the new one."""
    driver.played.annotations["serving.kserve.io/deploymentMode"] = "Serverless"
    step = driver.step(loading("2"))
    assert isinstance(step, Write)
    assert step.body["metadata"] == {"annotations": {"serving.kserve.io/deploymentMode": "Knative"}}


def test_nothing_but_model_version_and_percent_is_ever_written(driver: Driver) -> None:
    """Bookkeeping in annotations or labels of the InferenceService would cut revisions: there is none."""
    step = driver.step(loading("2"))
    assert isinstance(step, Write)
    assert set(step.body) == {"spec"}
    assert set(step.body["spec"]) == {"predictor"}


class Interleaved(RuleBasedStateMachine):
    """A canary of a bad version, and its rollback, at any time, with the controllers' steps in any order between.

    `naive`: the rollback in one patch; it shows that the invariants can fail.
    """

    naive = False

    def __init__(self) -> None:
        super().__init__()
        self.driver = Driver(after_a_promotion())
        self.number = 2
        self.cap = 0
        """The most that the canary may have."""
        self.asked = 0
        self.going_back = False
        self.stage = "load"

    @property
    def played(self) -> PlayedKnative:
        """The cluster."""
        return self.driver.played

    @property
    def bad(self) -> str:
        """The version of this canary."""
        return str(self.number)

    @rule()
    def kserve(self) -> None:
        """KServe reconciles."""
        self.played.kserve()

    @rule()
    def configuration(self) -> None:
        """Knative makes a revision."""
        self.played.configuration()

    @rule(data=st.data())
    def ready(self, data: st.DataObject) -> None:
        """Some revision becomes ready."""
        pending = [index for index, one in enumerate(self.played.revisions) if not one.ready]
        if pending:
            self.played.becomes_ready(data.draw(st.sampled_from(pending)))

    @rule()
    def routes(self) -> None:
        """Knative routes."""
        self.played.routes()

    @rule()
    def service(self) -> None:
        """Knative tells."""
        self.played.service()

    @rule()
    def all_of_it(self) -> None:
        """Everything catches up: what was written before a rollback's 0 % is over then, for good."""
        self.played.settle()
        if self.going_back and self.played.percent == 0:
            self.cap = 0

    @precondition(lambda self: not self.going_back)
    @rule(lose=st.booleans())
    def canary(self, lose: bool) -> None:
        """The canary takes a step."""
        if self.stage == "load":
            step = self.driver.step(loading(self.bad), lose)
            view = self.played.seen()
            if isinstance(step, Settled) and knative.standing(view, self.driver.book).ready.get(self.bad):
                self.stage, self.asked = "split", 5
        else:
            self.cap = max(self.cap, self.asked)
            step = self.driver.step(splitting({self.bad: self.asked, "1": 100 - self.asked}), lose)
            if isinstance(step, Settled):
                assert self.played.share(VERSIONS[self.bad]) == self.asked
                self.asked = min(self.asked * 3, 50)

    @precondition(lambda self: not self.going_back and self.stage == "load")
    @rule()
    def canary_at_once(self) -> None:
        """With controllers that keep up."""
        self.driver.until_settled(loading(self.bad))
        self.played.settle()
        self.stage, self.asked = "split", 5
        if not knative.standing(self.played.seen(), self.driver.book).ready.get(self.bad):
            self.driver.until_settled(loading(self.bad))
            self.played.settle()
        self.cap = 5
        self.driver.until_settled(splitting({self.bad: 5, "1": 95}))

    @precondition(lambda self: not self.going_back and (not self.naive or self.played.share(VERSIONS[self.bad])))
    @rule()
    def bad_enough(self) -> None:
        """A guard rejects the version."""
        self.going_back = True
        if self.naive:
            self.played.patch({"model": {"storageUri": VERSIONS["1"]}, "canaryTrafficPercent": None})

    @precondition(lambda self: self.going_back and not self.naive)
    @rule(lose=st.booleans())
    def back(self, lose: bool) -> None:
        """The rollback takes a step."""
        step = self.driver.step(splitting({"1": 100}), lose)
        if isinstance(step, Settled):
            assert self.played.share("s3://1") == 100
            step = self.driver.step(knative.rest, lose)
        if isinstance(step, Settled):
            self.number = self.number + 1 if self.number < 9 else 2
            self.cap, self.asked, self.going_back, self.stage = 0, 0, False, "load"

    @invariant()
    def bad_versions_get_no_more_than_was_asked(self) -> None:
        """Of what really goes where."""
        share = self.played.share(VERSIONS[self.bad])
        assert share <= self.cap
        others = {uri for version, uri in VERSIONS.items() if version not in {"0", "1", self.bad}}
        assert not any(self.played.share(uri) for uri in others)

    def teardown(self) -> None:
        """With controllers that keep up, a rollback ends with the stable model alone, as the base."""
        if self.naive:
            return
        self.driver.until_settled(splitting({"1": 100}))
        self.driver.until_settled(knative.rest)
        assert self.played.share("s3://1") == 100
        assert self.played.seen().revision(self.played.rolled_out).uri == "s3://1"
        assert self.played.percent is None


class Naive(Interleaved):
    """The same with a rollback in one patch; its canary has 5 % from the beginning."""

    naive = True

    def __init__(self) -> None:
        super().__init__()
        self.driver.until_settled(loading(self.bad))
        self.played.settle()
        self.stage, self.asked, self.cap = "split", 5, 5
        self.driver.until_settled(splitting({self.bad: 5, "1": 95}))


STEPS = settings(max_examples=200, stateful_step_count=40, deadline=None)


@pytest.mark.slow
def test_in_any_order_a_bad_canary_never_gets_more_than_was_asked() -> None:
    """Nor anything once the controllers have seen its rollback; and whatever came in between, the stable model comes back."""
    run_state_machine_as_test(Interleaved, settings=STEPS)


@pytest.mark.slow
def test_the_same_orders_find_the_rollback_in_one_patch_out() -> None:
    """The machine can fail: with the naive rollback it finds the bad canary with all of the traffic."""
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Naive, settings=settings(STEPS, database=None, derandomize=True, max_examples=300))

"""The next safe write in Knative mode: one InferenceService, whose newest revision gets `canaryTrafficPercent`.

KServe computes the route anew at every reconcile: with a percent, so much goes to `latestRevision` (the newest *ready*
one, whatever it is) and the rest to the last revision that ever had 100 % (`latestRolledoutRevision`, the base); without,
everything goes to `latestRevision`. From that follow the rules here:

- a model and its percent change in one patch: a percent alone over a rolled-out model means "back to the one before";
- a new model is loaded at 0 %, and gets a share only when its very revision is the newest, is ready, and the base is the
  revision that was stable before (a status that lags can make KServe take the one before that);
- a canary is taken back in three writes: 0 % alone, then the old model at 0 %, then, when that is ready, the percent goes.
  In one write the canary would have everything until the old model is ready, and become the base;
- a canary that was given up is cleared away before the next, else the next one's share would go to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from daemon.platforms.kserve.book import Book
from daemon.platforms.kserve.modes import SOURCE, Installed, objections, renamed
from daemon.platforms.kserve.steps import Act, Kind, Refuse, Settled, Standing, Step, Wait, Write

_FAILED = frozenset({"BlockedByFailedLoad", "InvalidSpec"})


@dataclass(frozen=True, slots=True)
class Revision:
    """A revision of Knative's."""

    uri: str
    """The model that it loads; empty when it does not say."""
    ready: bool
    """It has been able to answer; it may be scaled to nothing since."""
    why: str = ""
    """Why it is not ready."""


GONE = Revision("", ready=False, why="there is no such revision any more")


@dataclass(frozen=True, slots=True)
class Seen:
    """An InferenceService in Knative mode, as it was read."""

    name: str
    resource_version: str
    uri: str
    """The model of its spec."""
    percent: int | None
    created: str
    """The newest revision that Knative says there is; behind the spec for a while."""
    ready: str
    """The newest one that is ready: `latestRevision` of a route."""
    base: str
    """The last one that had 100 %: what is not the canary's goes there."""
    previous: str
    """The one that had 100 % before."""
    shares: Mapping[str, int]
    """Revision -> percent, of the route as it stands."""
    revisions: Mapping[str, Revision]
    """Those that are named above."""
    failure: str
    """What KServe says is wrong with the newest model."""
    objections: tuple[str, ...]
    annotations: Mapping[str, str]
    """What a write must put right of them."""

    def revision(self, name: str) -> Revision:
        """A revision; GONE when there is none."""
        return self.revisions.get(name, GONE)

    @property
    def written(self) -> str:
        """What only driftd should change."""
        return _written(self.uri, self.percent)

    @property
    def is_whole(self) -> bool:
        """Whether no canary is going on, and the newest revision has everything."""
        return self.percent in {None, 100} and self.shares == {self.created: 100} and self.base == self.created


def revision_names(service: Mapping[str, Any]) -> frozenset[str]:
    """The revisions that matter to the InferenceService: to be read beside it."""
    status = _component(service)
    named = {status.get(f"latest{which}Revision") for which in ("Created", "Ready", "Rolledout")}
    named |= {
        status.get("previousRolledoutRevision"),
        *(one.get("revisionName") for one in status.get("traffic") or ()),
    }
    return frozenset(name for name in named if name)


def revision_of(found: Mapping[str, Any]) -> Revision:
    """From a Revision object."""
    conditions = {one["type"]: one for one in found.get("status", {}).get("conditions", ())}
    ready = conditions.get("Ready", {})
    why = ready.get("message") or ready.get("reason") or "it is not ready yet"
    is_ready = ready.get("status") == "True"
    uri = (found["metadata"].get("annotations") or {}).get(SOURCE, "")
    return Revision(uri, is_ready, "" if is_ready else str(why))


def seen(service: Mapping[str, Any], revisions: Mapping[str, Revision], installed: Installed) -> Seen:
    """An InferenceService with the revisions that it names."""
    status, predictor = _component(service), service.get("spec", {}).get("predictor") or {}
    shares: dict[str, int] = {}
    for one in status.get("traffic") or ():
        if one.get("percent") and one.get("revisionName"):
            shares[one["revisionName"]] = shares.get(one["revisionName"], 0) + int(one["percent"])
    told = service.get("status", {}).get("modelStatus") or {}
    failure = ""
    if told.get("transitionStatus") in _FAILED:
        info = told.get("lastFailureInfo") or {}
        failure = str(info.get("message") or info.get("reason") or told["transitionStatus"])
    percent = predictor.get("canaryTrafficPercent")
    return Seen(
        name=service["metadata"]["name"],
        resource_version=service["metadata"]["resourceVersion"],
        uri=str((predictor.get("model") or {}).get("storageUri") or ""),
        percent=None if percent is None else int(percent),
        created=status.get("latestCreatedRevision") or "",
        ready=status.get("latestReadyRevision") or "",
        base=status.get("latestRolledoutRevision") or "",
        previous=status.get("previousRolledoutRevision") or "",
        shares=shares,
        revisions=revisions,
        failure=failure,
        objections=tuple(objections(service, installed)),
        annotations=renamed(service),
    )


def standing(view: Seen, book: Book) -> Standing:
    """The split by versions, and which could get traffic now."""
    weights: dict[str, float] = {}
    for name, share in view.shares.items():
        version = book.version_of(view.revision(name).uri)
        if not version:
            weights = {}
            break
        weights[version] = weights.get(version, 0) + share
    ready: dict[str, bool] = {}
    problems: dict[str, str] = {}
    for name in (view.base, view.previous if _can_go_back(view) else "", *view.shares):
        if (version := book.version_of(view.revision(name).uri)) and not ready.get(version):
            ready[version] = view.revision(name).ready
            problems |= {} if ready[version] else {version: view.revision(name).why}
    newest = book.version_of(view.uri)
    if newest and not ready.get(newest):
        why = _not_loaded(view, book)
        broken = view.failure or (view.revision(view.created).why if _is_broken(view, book) else "")
        if _is_flipped(view, book):
            ready.pop(newest, None)  # it is to be loaded anew
        else:
            ready[newest] = not why
        if broken or _is_flipped(view, book):
            problems[newest] = broken or why
    problems = {version: why for version, why in problems.items() if not ready.get(version)}
    return Standing(weights, ready, problems, view.written)


def load(view: Seen, book: Book, version: str) -> Step:
    """Towards `version` (one of the book's) being loaded beside what serves, with no traffic."""
    if view.objections:
        return Refuse(view.objections[0])
    uri = book.versions[version]
    if not _is_flipped(view, book):
        if view.uri == uri:
            return Settled()
        if not book.version_of(view.uri):
            return Refuse(
                f"InferenceService {view.name} is set to {view.uri}, which is none of the versions that driftd knows",
                f"set it to the champion's model; version {version} lies at {uri}",
            )
    if not view.base:
        return Wait("nothing has had all of the traffic yet")
    if not view.is_whole:
        if view.percent not in {None, 0, 100} and not _is_flipped(view, book):
            return Refuse(f"the traffic is split: {view.percent} % go to the newest revision")
        return rest(view, book)
    beginning = replace(book, base=view.base)
    return _write(view, beginning, uri, 0, f"load version {version} beside version {book.version_of(view.uri)}, at 0 %")


def split(view: Seen, book: Book, weights: Mapping[str, float]) -> Step:
    """Towards the split, of one version or of two."""
    if view.objections:
        return Refuse(view.objections[0])
    if any(share != int(share) for share in weights.values()):
        return Refuse(f"Knative splits by whole percents, not {dict(weights)}")
    newest = book.version_of(view.uri)
    if len(weights) == 1:
        return _all_to(view, book, next(iter(weights)), newest)
    if len(weights) != 2 or newest not in weights:
        return Refuse(f"only the newest model (version {newest or 'unknown'}) and the one before can share the traffic")
    other = next(version for version in weights if version != newest)
    if why := _not_loaded(view, book):
        return _unready(view, book, newest, why)
    if view.percent is None:
        return Refuse("a percent alone would send the rest to the model before: load the new version first")
    if book.version_of(view.revision(view.base).uri) != other:
        return Refuse(f"what version {newest} does not get would go to {_told(view, book, view.base)}, not to {other}")
    percent = int(weights[newest])
    if view.percent != percent:
        return _write(view, book, view.uri, percent, f"{percent} % to version {newest}, the rest to version {other}")
    if view.shares == {view.created: percent, view.base: 100 - percent}:
        return Settled()
    return Wait(f"the route does not say {percent} % yet")


def rest(view: Seen, book: Book) -> Step:
    """Towards nothing left over: a canary that has no traffic any more is replaced by the model that has it."""
    if view.objections:
        return Refuse(view.objections[0])
    if view.is_whole:
        return Settled()
    if view.percent in {None, 100}:
        return Wait("the newest revision does not have all of the traffic yet")
    flipped = _is_flipped(view, book)
    if view.percent and not flipped:
        return Settled()  # a split that is meant
    stable = book.base if flipped else view.base
    uri = view.revision(stable).uri or (_uri_before(book) if flipped else "")
    version = book.version_of(uri)
    if not version:
        return Refuse(f"{_told(view, book, stable)} has no model that driftd knows: it cannot be made the newest again")
    return _made_newest(view, book, version)


def _all_to(view: Seen, book: Book, version: str, newest: str) -> Step:
    """Everything to one version: a promotion, or a way back."""
    if version == newest and not _is_flipped(view, book):
        if view.is_whole and view.revision(view.created).uri == view.uri:
            return Settled()
        if view.percent == 0 and book.version_of(view.revision(view.base).uri) == version:
            return _on_base(view, version)  # it is being made the newest again; the traffic is there already
        if why := _not_loaded(view, book):
            return _unready(view, book, version, why)
        if view.percent is None:
            return Wait("the newest revision does not have all of the traffic yet")
        return _write(view, book, view.uri, None, f"all traffic to version {version}")
    if book.version_of(view.revision(view.base).uri) == version and not (view.is_whole and view.percent is None):
        if view.percent:
            return _write(view, book, view.uri, 0, f"no traffic to version {newest}: back to version {version}")
        return _on_base(view, version)
    if _is_flipped(view, book):
        return _made_newest(view, book, version)
    if view.is_whole and _can_go_back(view) and book.version_of(view.revision(view.previous).uri) == version:
        # With no other change in it, a percent under 100 is KServe's way back to the model before.
        going = replace(book, base=view.previous)
        return _write(view, going, view.uri, 0, f"back from version {newest} to version {version}")
    if view.percent == 0 and view.base == view.created:
        return Wait("KServe has not gone back to the model before yet")
    return Refuse(f"version {version} is not loaded", "load it beside the one that serves first")


def _on_base(view: Seen, version: str) -> Step:
    if view.shares == {view.base: 100} and view.revision(view.base).ready:
        return Settled()
    return Wait(f"the route does not have everything on version {version} yet")


def _made_newest(view: Seen, book: Book, version: str) -> Step:
    """At 0 %, then the model of `version` as the newest revision, then without a percent: each when the last is done."""
    uri = book.versions[version]
    if view.percent:
        return _write(view, book, view.uri, 0, "no traffic to the newest revision")
    if view.percent is None:
        return Wait("the newest revision does not have all of the traffic yet")
    if _is_unseen(view, book) and view.uri != uri:
        # If KServe never saw the model that is to be replaced, it would see a percent over an unchanged one.
        return Wait(f"KServe has not made a revision of {view.uri} yet, which is to be replaced")
    if view.uri != uri:
        return _write(view, book, uri, 0, f"version {version} as the newest again, at 0 %")
    if why := _not_newest(view, book):
        return Wait(f"version {version} as the newest revision: {why}")
    return _write(view, book, uri, None, f"all traffic to version {version}, as the newest revision")


def _not_loaded(view: Seen, book: Book) -> str:
    """Why the newest model must not get traffic; empty when it may."""
    if _is_flipped(view, book):
        return f"KServe has taken {_told(view, book, view.base)} as the base, not {_told(view, book, book.base)}"
    return _not_newest(view, book)


def _not_newest(view: Seen, book: Book) -> str:
    """Why the spec's model is not the newest ready revision; empty when it is."""
    if view.failure:
        return view.failure
    if not view.created or _is_unseen(view, book):
        return "KServe has not made its revision yet"
    newest = view.revision(view.created)
    if newest.uri != view.uri:
        return f"the newest revision {view.created} has {newest.uri or 'no model that it names'}"
    if view.ready != view.created or not newest.ready:
        return newest.why or f"revision {view.ready or 'none'} is the newest that is ready, not {view.created}"
    return ""


def _unready(view: Seen, book: Book, version: str, why: str) -> Refuse | Wait:
    told = f"version {version} is not ready: {why}"
    return Refuse(told) if view.failure or _is_flipped(view, book) else Wait(told)


def _is_unseen(view: Seen, book: Book) -> bool:
    """Whether the status is from before the model that driftd wrote last."""
    return view.uri == book.model and view.created == book.before


def _is_broken(view: Seen, book: Book) -> bool:
    return bool(view.created) and not _is_unseen(view, book) and not view.revision(view.created).ready


def _is_flipped(view: Seen, book: Book) -> bool:
    """Whether KServe holds the traffic on another revision than the one that was stable when the canary was loaded."""
    return view.percent not in {None, 100} and bool(book.base) and view.base not in {book.base, view.created}


def _can_go_back(view: Seen) -> bool:
    return view.is_whole and view.ready == view.created and view.revision(view.previous).ready


def _uri_before(book: Book) -> str:
    return next((uri for version, uri in book.versions.items() if book.weights.get(version) == 100), "")


def _told(view: Seen, book: Book, revision: str) -> str:
    version = book.version_of(view.revision(revision).uri)
    return f"version {version} ({revision})" if version else f"revision {revision or 'none'}"


def _written(uri: str, percent: int | None) -> str:
    return f"{uri} {'all' if percent is None else percent}"


def _write(view: Seen, book: Book, uri: str, percent: int | None, why: str) -> Write:
    """One merge-patch with all that changes: the model, its version for the payload logger, and the percent."""
    predictor: dict[str, Any] = {"canaryTrafficPercent": percent}
    if uri != view.uri:
        predictor |= {"model": {"storageUri": uri}, "labels": {"endpoint": book.version_of(uri)}}
    body: dict[str, Any] = {"spec": {"predictor": predictor}}
    if view.annotations:
        body["metadata"] = {"annotations": dict(view.annotations)}
    if uri != view.uri:
        book = replace(book, model=uri, before=view.created)
    after = book.writing(view.written, _written(uri, percent))
    return Write(Act.PATCH, Kind.SERVICE, view.name, body, view.resource_version, why, after)


def _component(service: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = (service.get("status", {}).get("components") or {}).get("predictor") or {}
    return found

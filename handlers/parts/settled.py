"""Errors of the services as outcomes: away is not no, and not knowing is neither."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

from pydantic import ValidationError

from daemon.handling import Again, Call, Conflict, Context, Failed, Inconclusive, Outcome, Refused, Unavailable

Step = Callable[[Call, Context], Outcome]


def settled(step: Step) -> Step:
    """The step, with what services answer turned into its outcome; its state is kept over an outage.

    Unavailable: again in a while, inconclusive when that would be after the deadline. Refused and Conflict: failed.
    """

    @wraps(step)
    def answer(call: Call, context: Context) -> Outcome:
        try:
            return step(call, context)
        except Unavailable as away:
            wait = patience(call)
            if (call.deadline - context.now).total_seconds() <= wait:
                return Inconclusive(f"{away}; its time is up")
            return Again(wait, str(away), call.state)
        except (Refused, Conflict) as no:
            return Failed(str(no))
        except ValidationError as wrong:  # a value that an expression gave at run time
            first = wrong.errors()[0]
            return Failed(f"{call.verb}: {'.'.join(str(part) for part in first['loc'])}: {first['msg']}")

    return answer


def patience(call: Call) -> float:
    """Seconds until the next attempt: 1, 2, 4, ... up to a minute."""
    return float(min(60, 2 ** min(call.attempt, 6)))


def version_of(call: Call) -> str:
    """The version that the run is about; Refused when neither the trigger nor an earlier step named one."""
    version = call.given.get("version")
    if not version:
        raise Refused("run", call.verb, "no earlier step gave a version, and the event names none")
    return str(version)

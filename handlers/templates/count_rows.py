"""Count the rows of the model's stream, per version, with the share that has its label: an example of a command."""

from __future__ import annotations

import pandas as pd
from kit.call import fail, finish, log, read_call
from kit.rows import label_key, stream_rows


def main() -> None:
    """Read the labelled rows and count them."""
    call = read_call()
    if not call.stream:
        fail("there is no stream to count: the rule needs a model that has one")
    since, most = call.parameter("since"), int(call.parameter("max_rows", 100_000))
    training, holdout = (stream_rows(call, which, since, most) for which in ("training", "holdout"))
    versions = pd.concat([training.meta["version"], holdout.meta["version"]])
    counted = versions.map(lambda value: label_key(value) or "unknown").value_counts()
    result = {
        "labelled": len(training) + len(holdout),
        "in_holdout": len(holdout),
        "unlabelled": training.unlabelled,
        "unreadable": training.unreadable,
        "by_version": {str(version): int(count) for version, count in counted.items()},
    }
    log("counted", **result)
    finish(call, result)


if __name__ == "__main__":
    main()

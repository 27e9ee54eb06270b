"""Count the rows of the model's stream, per version, with the share that has its label: an example of a command."""

from __future__ import annotations

from kit.call import finish, log, read_call
from kit.rows import label_key, stream_rows


def main() -> None:
    """Read the labelled rows and count them."""
    call = read_call()
    rows = stream_rows(call, "training", call.parameter("since"), int(call.parameter("max_rows", 100_000)))
    counted = rows.meta["version"].map(lambda value: label_key(value) or "unknown").value_counts()
    result = {
        "labelled": len(rows) + rows.held_out,
        "unlabelled": rows.unlabelled,
        "unreadable": rows.unreadable,
        "by_version": {str(version): int(count) for version, count in counted.items()},
    }
    log("counted", **result)
    finish(call, result)


if __name__ == "__main__":
    main()

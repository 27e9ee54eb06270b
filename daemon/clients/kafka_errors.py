"""kafka-python's errors as ours, each with the original as its cause."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from kafka import errors as kafka_errors

from daemon.core.errors import ClientError, Conflict, Refused, Unavailable

SERVICE = "kafka"
_UNKNOWN_USER = (
    kafka_errors.SaslAuthenticationFailedError,
    kafka_errors.UnsupportedSaslMechanismError,
    kafka_errors.IllegalSaslStateError,
)

_CLOSED = "NetworkSelector closed!"
"""What kafka-python raises when a client was closed by another thread."""


class NotAuthenticated(Refused):
    """The broker does not accept the user, the password or the mechanism."""


class Unreadable(ClientError):
    """A batch in the log cannot be decoded: every attempt to read it fails the same way."""


class Partition(NamedTuple):
    """A partition of a topic."""

    topic: str
    number: int

    def __str__(self) -> str:
        """`topic/number`."""
        return f"{self.topic}/{self.number}"


class OffsetsGone(Conflict):
    """Positions of these partitions are not in the log: what was there has been deleted, or the log ends before them."""

    def __init__(self, why: str, partitions: frozenset[Partition], ends: Mapping[Partition, int] | None = None) -> None:
        super().__init__(SERVICE, "fetch", why)
        self.partitions = partitions
        self.cut = ends is not None
        """The log was cut, and may have grown again since: the positions may be in it, but not what was there."""
        self.ends: Mapping[Partition, int] = ends or {}
        """Where known: up to which offset a log that was cut is the one that was read."""


@contextlib.contextmanager
def named_errors(operation: str, undecodable: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """kafka-python's errors as ours, each with the original as its cause."""
    try:
        yield
    except kafka_errors.OffsetOutOfRangeError as error:
        raise OffsetsGone(str(error), frozenset(Partition(*place) for place in error.args[0])) from error
    except kafka_errors.LogTruncationError as error:
        found = {Partition(*place): known for place, known in error.divergent_offsets.items()}
        ends = {partition: known.offset for partition, known in found.items() if known is not None}
        raise OffsetsGone(str(error), frozenset(found), ends) from error
    except _UNKNOWN_USER as error:
        raise NotAuthenticated(SERVICE, operation, str(error), "check sasl of the connection") from error
    except kafka_errors.AuthorizationError as error:
        hint = "let the user read the topics and the group (and write the dead letters) in the broker's ACLs"
        raise Refused(SERVICE, operation, str(error), hint) from error
    except (kafka_errors.CorruptRecordError, kafka_errors.UnsupportedCodecError) as error:
        raise Unreadable(SERVICE, operation, str(error)) from error
    except (kafka_errors.MessageSizeTooLargeError, kafka_errors.RecordListTooLargeError) as error:
        raise Refused(SERVICE, operation, str(error), "the topic's max.message.bytes is smaller") from error
    except kafka_errors.KafkaError as error:
        raise Unavailable(SERVICE, operation, str(error)) from error
    except RuntimeError as error:
        if str(error) == _CLOSED:  # by `stop`, while something was asked
            raise Unavailable(SERVICE, operation, "the client is closed") from error
        if not isinstance(error, undecodable):
            raise
        raise Unreadable(SERVICE, operation, f"{type(error).__name__}: {error}") from error
    except undecodable as error:
        raise Unreadable(SERVICE, operation, f"{type(error).__name__}: {error}") from error

"""Frames between daemon and worker: what went in comes out, and nothing half comes out."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.errors import BadInput
from daemon.monitors.frames import Frame, read_frame, write_frame

FRAMES = st.builds(
    Frame,
    st.text(),
    st.dictionaries(st.text(), st.integers(-(2**53), 2**53) | st.text()),
    st.lists(st.binary()).map(tuple),
)


def written(*frames: Frame) -> bytes:
    """The bytes of frames."""
    pipe = io.BytesIO()
    for frame in frames:
        write_frame(pipe, frame)
    return pipe.getvalue()


@given(frames=st.lists(FRAMES, max_size=4))
def test_frames_come_out_as_they_went_in(frames: list[Frame]) -> None:
    """Any kind, body and blobs survive the pipe, one after the other."""
    pipe = io.BytesIO(written(*frames))

    assert frames == [read_frame(pipe) for _ in frames]
    with pytest.raises(EOFError):
        read_frame(pipe)


@given(frame=FRAMES, data=st.data())
def test_a_cut_frame_is_the_end(frame: Frame, data: Any) -> None:
    """A peer that dies while writing leaves no frame behind, only an end."""
    whole = written(frame)
    pipe = io.BytesIO(whole[: data.draw(st.integers(0, len(whole) - 1))])

    with pytest.raises(EOFError):
        read_frame(pipe)


@pytest.mark.parametrize(
    "head",
    [
        b"\xff\xff\xff\xff",
        b"\0\0\0\2{}",
        b"\0\0\0\2[]",
        b"\0\0\0\x2a" + b'{"kind":"x","body":{},"blobs":[9999999999]}'[:42],
    ],
)
def test_rubbish_is_no_frame(head: bytes) -> None:
    """What is no frame, or asks for more memory than any frame may, is refused before it costs anything."""
    with pytest.raises((BadInput, EOFError)):
        read_frame(io.BytesIO(head))

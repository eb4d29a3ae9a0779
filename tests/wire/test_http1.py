"""How messages are written, and which headers of an answer go further."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tailproxy.wire.http1 import field_lines, response_block, response_end_to_end

from . import reference


def test_an_answer_loses_the_fixed_set_and_keeps_the_rest():
    headers = [
        (b"Connection", b"close, X-Hop"),
        (b"X-Hop", b"1"),
        (b"Transfer-Encoding", b"chunked"),
        (b"Upgrade", b"h2c"),
        (b"Set-Cookie", b"a"),
        (b"X-Forwarded-For", b"kept"),
        (b"Set-Cookie", b"b"),
    ]
    assert response_end_to_end(headers) == [
        (b"Set-Cookie", b"a"),
        (b"X-Forwarded-For", b"kept"),
        (b"Set-Cookie", b"b"),
    ]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [b"Connection", b"connection", b"Content-Length", b"CONTENT-LENGTH", b"X-Hop",
                 b"Transfer-Encoding", b"Date", b"Keep-Alive", b"TE", b"Upgrade", b"Set-Cookie"]
            ),
            st.sampled_from([b"close", b"x-hop, date", b"Content-Length", b"set-cookie,", b"5"]),
        ),
        max_size=6,
    )
)  # fmt: skip
def test_an_answer_is_written_with_what_it_keeps(headers):
    kept = reference.response_end_to_end(headers)
    assert response_end_to_end(headers) == kept
    length = any(name.lower() == b"content-length" for name, _ in kept)
    assert response_block(headers) == (field_lines(kept), length)

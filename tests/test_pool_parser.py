from __future__ import annotations

import gzip
import itertools
import zlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tanuki_async._pool.parser import LARGEST_HEAD, Answer, MalformedError
from tanuki_async._records import Reply

BODY = b'{"value": "good"}'
LENGTH = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 17\r\n\r\n" + BODY
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\n" + BODY[:5] + b"\r\nC\r\n" + BODY[5:]
CHUNKED += b"\r\n0\r\nTrailer: x\r\n\r\n"
CONTINUED = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + LENGTH


def read(raw: bytes, *, without_body: bool = False) -> Reply:
    answer = Answer(without_body=without_body)
    assert answer.feed(raw)
    return answer.reply()


@pytest.mark.parametrize("raw", [LENGTH, CHUNKED, CONTINUED])
@given(cuts=st.lists(st.integers(1, 200), max_size=12))
@example(cuts=list(range(1, 200)))
def test_an_answer_reads_the_same_however_it_is_cut(raw: bytes, cuts: list[int]) -> None:
    places = [0, *sorted({cut for cut in cuts if cut < len(raw)}), len(raw)]
    pieces = [raw[a:b] for a, b in itertools.pairwise(places)]
    answer = Answer()
    assert [answer.feed(piece) for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert (answer.reply().status, answer.reply().body, answer.reusable) == (200, BODY, True)


def test_header_names_are_lower_case_and_repeated_ones_are_joined() -> None:
    reply = read(b"HTTP/1.1 429 Too Many\r\nX-A: 1\r\nRetry-After:  2 \r\nx-a: 3\r\nContent-Length: 0\r\n\r\n")
    assert reply.status == 429
    assert reply.headers == {"x-a": "1, 3", "retry-after": "2", "content-length": "0"}


@pytest.mark.parametrize(
    ("first", "headers", "reusable"),
    [
        ("HTTP/1.1 200 OK", "", True),
        ("HTTP/1.1 200", "", True),
        ("HTTP/1.1 200 OK", "Connection: close\r\n", False),
        ("HTTP/1.0 200 OK", "", False),
        ("HTTP/1.0 200 OK", "Connection: Keep-Alive\r\n", True),
    ],
)
def test_a_connection_is_kept_only_if_the_server_agrees(first: str, headers: str, reusable: bool) -> None:
    answer = Answer()
    assert answer.feed(f"{first}\r\n{headers}Content-Length: 0\r\n\r\n".encode())
    assert answer.reusable is reusable


@pytest.mark.parametrize("tail", [b"HTTP/1.1 200 OK", b"x"])
@pytest.mark.parametrize("raw", [LENGTH, CHUNKED])
def test_bytes_after_the_end_spoil_the_connection_but_not_the_answer(raw: bytes, tail: bytes) -> None:
    answer = Answer()
    assert answer.feed(raw + tail)
    assert answer.reply().body == BODY
    assert not answer.reusable


def test_without_a_length_the_body_ends_with_the_connection() -> None:
    answer = Answer()
    assert not answer.feed(b"HTTP/1.1 200 OK\r\n\r\n")
    assert not answer.feed(BODY)
    assert answer.ends_with_connection
    assert answer.reply().body == BODY


def test_some_answers_have_no_body_whatever_they_say() -> None:
    assert read(b"HTTP/1.1 204 No Content\r\n\r\n").body == b""
    assert read(b"HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n", without_body=True).body == b""


@pytest.mark.parametrize(
    ("coding", "packed"), [("gzip", gzip.compress(BODY, mtime=0)), ("deflate", zlib.compress(BODY))]
)
def test_compressed_bodies_are_unpacked(coding: str, packed: bytes) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\nContent-Length: {len(packed)}\r\n\r\n"
    assert read(head.encode() + packed).body == BODY


@pytest.mark.parametrize("body", [b"not gzip", gzip.compress(BODY, mtime=0)[:-4]])
def test_a_body_that_does_not_unpack_is_malformed(body: bytes) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
    answer = Answer()
    assert answer.feed(head.encode() + body)
    with pytest.raises(MalformedError, match="compress"):
        answer.reply()


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"\x15\x03\x03\x00\x02\x02F",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 2\xb2\xb2 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n folded: c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nspace : b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1_0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFF\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * (LARGEST_HEAD + 1),
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * LARGEST_HEAD,
    ],
)
def test_what_is_no_answer_is_malformed(raw: bytes) -> None:
    with pytest.raises(MalformedError):
        Answer().feed(raw)


def test_a_body_without_a_length_has_a_bound_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tanuki_async._pool.parser.LARGEST_BODY", 100)
    answer = Answer()
    assert not answer.feed(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 60)
    with pytest.raises(MalformedError, match="larger than 100"):
        answer.feed(b"x" * 60)


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(raw: bytes) -> None:
    answer = Answer()
    try:
        if answer.feed(b"HTTP/1.1 200 OK\r\n" + raw):
            answer.reply()
    except MalformedError:
        pass

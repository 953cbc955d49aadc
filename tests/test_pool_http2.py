from __future__ import annotations

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator, Callable

import pytest
from _h2_server import CERTIFICATE, Asked, H2Server, tls, until
from _raw_server import CLOSE, RawServer, ok
from _time import jump, rounds
from h2.errors import ErrorCodes
from h2.events import DataReceived
from h2.settings import SettingCodes

from tanuki_async._errors import NotOpenError, ProviderUnreachableError, SettingsError
from tanuki_async._pool import quiet, session, wire
from tanuki_async._pool.goodbyes import Goodbyes
from tanuki_async._pool.http import Connections
from tanuki_async._records import Reply

HEADERS = {"Authorization": "Bearer sk-secret", "content-type": "application/json"}


@pytest.fixture
async def http() -> AsyncIterator[Connections]:
    connections = Connections(verify=CERTIFICATE)
    yield connections
    await connections.aclose()


async def post(http: Connections, url: str, body: bytes | None = b'{"a": 1}') -> Reply:
    return await http.send("POST", f"{url}/x?y=1", headers=HEADERS, body=body)


def after(first: Callable[[Asked, int], None]) -> Callable[[Asked, int, int], None]:
    """Answer the first request in a way of its own, the others with `{}`."""
    return lambda asked, number, stream: first(asked, stream) if number == 1 else asked.reply(stream)


def never(asked: Asked, number: int, stream: int) -> None:
    """No answer."""


async def test_a_request_goes_out_whole_and_its_answer_comes_back_whole(http: Connections) -> None:
    async with H2Server(lambda asked, _, stream: asked.reply(stream, b'{"b": 2}', x_request_id="r1")) as server:
        reply = await post(http, server.url)
        assert (reply.status, reply.body, reply.headers["x-request-id"]) == (200, b'{"b": 2}', "r1")
        ((headers, body),) = server.requests
    assert body == b'{"a": 1}'
    assert headers == {
        ":method": "POST",
        ":authority": server.url[8:-3],
        ":scheme": "https",
        ":path": "/v1/x?y=1",
        "accept-encoding": "gzip",
        "authorization": "Bearer sk-secret",
        "content-type": "application/json",
        "content-length": "8",
    }


async def test_many_requests_share_one_connection(http: Connections) -> None:
    async with H2Server() as server:
        replies = await asyncio.gather(*(post(http, server.url) for _ in range(100)))
        assert {reply.status for reply in replies} == {200}
        assert (len(server.requests), len(server.connections)) == (100, 1)


async def test_more_than_the_server_takes_at_once_go_over_more_connections(http: Connections) -> None:
    waiting: list[tuple[Asked, int]] = []
    most = 0

    def answer(asked: Asked, number: int, stream: int) -> None:
        nonlocal most
        waiting.append((asked, stream))
        most = max(most, asked.http.open_inbound_streams)
        if number % 10 == 0:
            for each, held in waiting:
                each.reply(held)
            waiting.clear()

    async with H2Server(answer, places=4) as server:
        await asyncio.gather(*(post(http, server.url) for _ in range(30)))
        assert most <= 4
        assert 3 <= len(server.connections) <= 8


async def test_who_waits_for_a_place_gets_it_when_one_is_left(http: Connections) -> None:
    async with H2Server(places=1) as server:
        await asyncio.gather(*(post(http, server.url) for _ in range(20)))
        (origin,) = http._ways["https", None]._origins.values()  # type: ignore[attr-defined]
        await until(lambda: not origin._dialing)
        made = len(server.connections)
        assert made <= 20
        for _ in range(5):
            await post(http, server.url)
        assert len(server.connections) == made


async def test_cancelling_resets_the_stream_and_leaves_the_connection_to_the_others(http: Connections) -> None:
    held: list[tuple[Asked, int]] = []
    async with H2Server(lambda asked, _, stream: held.append((asked, stream))) as server:
        first, second = (asyncio.create_task(post(http, server.url)) for _ in range(2))
        await until(lambda: len(held) == 2)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await asyncio.wait_for(server.reset.wait(), 1)
        assert server.resets == [ErrorCodes.CANCEL]
        held[1][0].reply(held[1][1])
        assert (await second).status == 200
        assert (len(server.connections), http.statistics().in_flight) == (1, 0)


async def test_who_is_cancelled_while_a_connection_is_made_leaves_no_trace(http: Connections) -> None:
    async with H2Server(places=1) as server:
        tasks = [asyncio.create_task(post(http, server.url)) for _ in range(6)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [asyncio.CancelledError, Reply] * 3
        assert len(server.requests) == 3


async def test_after_a_goodbye_what_was_begun_is_finished_and_the_rest_goes_elsewhere(http: Connections) -> None:
    held: list[tuple[Asked, int]] = []

    def answer(asked: Asked, number: int, stream: int) -> None:
        if number < 3:
            held.append((asked, stream))
        if number == 2:
            asked.goodbye(held[0][1])  # the second was not looked at
        if number == 3:
            held[0][0].reply(held[0][1], b"the first")
            asked.reply(stream, b"the second")

    async with H2Server(answer) as server:
        replies = await asyncio.gather(post(http, server.url), post(http, server.url))
        assert [reply.body for reply in replies] == [b"the first", b"the second"]
        assert len(server.connections) == 2
        await until(lambda: server.ended == 1)  # the one that said goodbye, once nothing was left on it


async def test_an_idle_connection_that_says_goodbye_is_not_used_again(http: Connections) -> None:
    async with H2Server() as server:
        await post(http, server.url)
        server.connections[0].goodbye(1)
        await until(lambda: server.ended)
        await post(http, server.url)
        assert len(server.connections) == 2


def refuse(asked: Asked, stream: int) -> None:
    asked.http.reset_stream(stream, ErrorCodes.REFUSED_STREAM)


async def test_a_refused_stream_is_sent_once_more(http: Connections) -> None:
    async with H2Server(after(refuse)) as server:
        assert (await post(http, server.url)).status == 200
        assert (len(server.requests), len(server.connections)) == (2, 1)


async def test_a_stream_that_is_always_refused_is_unreachable(http: Connections) -> None:
    async with H2Server(lambda asked, _, stream: refuse(asked, stream)) as server:
        with pytest.raises(ProviderUnreachableError, match="REFUSED_STREAM") as caught:
            await post(http, server.url)
        assert len(server.requests) == 2
        assert "sk-secret" not in repr(caught.value)


async def test_a_reset_before_the_answer_is_unreachable_but_only_for_that_call(http: Connections) -> None:
    async with H2Server(
        after(lambda asked, stream: asked.http.reset_stream(stream, ErrorCodes.INTERNAL_ERROR))
    ) as server:
        with pytest.raises(ProviderUnreachableError, match=r"without an answer.*INTERNAL_ERROR"):
            await post(http, server.url)
        assert (await post(http, server.url)).status == 200
        assert len(server.connections) == 1


async def test_a_reset_in_the_midst_of_an_answer_is_told(http: Connections) -> None:
    def answer(asked: Asked, number: int, stream: int) -> None:
        asked.reply(stream, b"half", end=False)
        asked.http.reset_stream(stream, ErrorCodes.INTERNAL_ERROR)

    async with H2Server(answer) as server:
        with pytest.raises(ProviderUnreachableError, match="before its answer was whole"):
            await post(http, server.url)
        assert len(server.requests) == 1


async def test_a_connection_that_the_server_closed_while_idle_is_replaced_unnoticed(
    http: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quiet, "QUIET_SECONDS", 0.0)
    async with H2Server() as server:
        await post(http, server.url)
        server.connections[0].transport.get_extra_info("socket").shutdown(socket.SHUT_WR)  # the loop has not heard yet
        assert (await post(http, server.url)).status == 200
        assert (len(server.requests), len(server.connections)) == (2, 2)


async def test_a_request_that_was_sent_is_not_sent_again_unless_the_server_says_it_was_left_undone(
    http: Connections,
) -> None:
    def answer(asked: Asked, number: int, stream: int) -> None:
        asked.transport.abort() if number == 2 else asked.reply(stream)

    async with H2Server(answer) as server:
        await post(http, server.url)
        with pytest.raises(ProviderUnreachableError, match="without an answer"):
            await post(http, server.url)
        assert len(server.requests) == 2


async def test_a_connection_that_is_cut_fails_all_that_is_on_it(http: Connections) -> None:
    async with H2Server(lambda asked, number, _: asked.transport.abort() if number == 3 else None) as server:
        results = await asyncio.gather(*(post(http, server.url) for _ in range(3)), return_exceptions=True)
        assert [type(result) for result in results] == [ProviderUnreachableError] * 3
        assert len(server.requests) == 3


async def test_closing_ends_what_is_on_its_way(http: Connections) -> None:
    async with H2Server(never, places=1) as server:
        tasks = [asyncio.create_task(post(http, server.url)) for _ in range(3)]
        await until(lambda: len(server.requests) == 3)
        tasks.append(asyncio.create_task(post(http, server.url)))
        await asyncio.sleep(0)
        await http.aclose()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [NotOpenError] * 4
        await until(lambda: server.ended == len(server.connections))


async def test_old_idle_connections_are_not_used(http: Connections, monkeypatch: pytest.MonkeyPatch) -> None:
    async with H2Server() as server:
        await post(http, server.url)
        monkeypatch.setattr(wire, "IDLE_SECONDS", -1.0)
        await post(http, server.url)
        assert len(server.connections) == 2
        await until(lambda: server.ended == 1)


async def test_a_server_that_is_gone_is_found_out_when_a_call_is_given_up(
    http: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "ANSWER_SECONDS", 0.02)
    async with H2Server(never) as server:
        task = asyncio.create_task(post(http, server.url))
        await until(lambda: server.requests)
        server.silent = True
        task.cancel()
        await until(lambda: server.ended)


async def test_a_server_that_listens_keeps_its_connection_when_a_call_is_given_up(
    http: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "ANSWER_SECONDS", 0.05)
    async with H2Server(after(lambda *_: None)) as server:
        task = asyncio.create_task(post(http, server.url))
        await until(lambda: server.requests)
        task.cancel()
        await asyncio.sleep(0.08)
        assert (await post(http, server.url)).status == 200
        assert len(server.connections) == 1


async def test_a_ping_is_answered(http: Connections) -> None:
    async with H2Server() as server:
        await post(http, server.url)
        server.connections[0].http.ping(b"12345678")
        server.connections[0].flush()
        await until(lambda: server.connections[0].pings)


async def test_a_server_that_never_tells_its_settings_is_unreachable() -> None:
    http = Connections(verify=CERTIFICATE)
    async with H2Server(silent=True) as server:
        asking = asyncio.create_task(post(http, server.url))
        await until(lambda: server.heard)
        await rounds()
        jump(60)
        with pytest.raises(ProviderUnreachableError, match="no HTTP/2 settings within"):
            await asking
        await until(lambda: server.ended)
    await http.aclose()


async def test_what_breaks_the_rules_is_told(http: Connections) -> None:
    def answer(asked: Asked, number: int, stream: int) -> None:
        asked.transport.write(b"\x00\x00\x01\x06\x00\x00\x00\x00\x00x")  # a PING of one byte

    async with H2Server(answer) as server:
        with pytest.raises(ProviderUnreachableError, match="breaks the rules of HTTP/2"):
            await post(http, server.url)


async def test_nobody_there_is_unreachable_for_each(http: Connections) -> None:
    async with H2Server() as server:
        pass
    results = await asyncio.gather(*(post(http, server.url) for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [ProviderUnreachableError] * 3
    assert len({id(result) for result in results}) == 3


async def test_a_header_cannot_smuggle_another(http: Connections) -> None:
    async with H2Server() as server:
        with pytest.raises(SettingsError, match="line break"):
            await http.send("POST", server.url, headers={"a": "b\r\nc: d"})
        assert server.requests == []


async def test_packed_answers_are_unpacked(http: Connections) -> None:
    packed = gzip.compress(b"packed")
    async with H2Server(lambda asked, _, stream: asked.reply(stream, packed, content_encoding="gzip")) as server:
        assert (await post(http, server.url)).body == b"packed"
        async with http.stream("POST", server.url, headers={}, body=b"{}") as answer:
            assert b"".join([piece async for piece in answer.pieces]) == b"packed"


async def test_an_answer_may_have_notes_in_advance_trailers_or_no_body(http: Connections) -> None:
    def answer(asked: Asked, number: int, stream: int) -> None:
        asked.http.send_headers(stream, [(":status", "103"), ("link", "</x>")])
        if asked.headers[stream][":method"] == "HEAD":
            asked.http.send_headers(stream, [(":status", "200"), ("content-length", "17")], end_stream=True)
        else:
            asked.reply(stream, b"{}", end=False)
            asked.http.send_headers(stream, [("x-end", "1")], end_stream=True)

    async with H2Server(answer) as server:
        assert (await post(http, server.url)).body == b"{}"
        reply = await http.send("HEAD", server.url, headers={})
        assert (reply.status, reply.body, reply.headers["content-length"]) == (200, b"", "17")


async def test_an_answer_before_the_end_of_the_request_is_taken(http: Connections) -> None:
    """The server has heard enough: the rest of the body is not sent."""
    async with H2Server() as server:
        await post(http, server.url)
        asked = server.connections[0]
        asked.hear = lambda event: (  # type: ignore[method-assign]
            asked.http.send_headers(3, [(":status", "413")], end_stream=True)
            if type(event).__name__ == "RequestReceived"
            else None
        )
        assert (await post(http, server.url, b"x" * 500_000)).status == 413
        await until(lambda: asked.http.open_inbound_streams == 0)


async def test_a_piece_is_there_before_the_next_is_sent_and_leaving_early_resets_the_stream(http: Connections) -> None:
    async with H2Server(lambda asked, _, stream: asked.reply(stream, b"abc", end=False)) as server:
        async with http.stream("POST", server.url, headers={}, body=b"{}") as answer:
            async for piece in answer.pieces:
                assert piece == b"abc"
                break
        await asyncio.wait_for(server.reset.wait(), 1)
        assert server.resets == [ErrorCodes.CANCEL]
        assert server.requests[0][0]["accept-encoding"] == "identity"
    assert http.statistics().in_flight == 0


async def test_a_slow_reader_makes_the_server_wait_and_nobody_else(http: Connections) -> None:
    body = b"x" * (8 * 2**20)
    async with H2Server(lambda asked, _, stream: asked.reply(stream, body)) as server:
        async with http.stream("POST", server.url, headers={}, body=b"{}") as answer:
            await until(lambda: server.sent >= 2**20)
            await asyncio.sleep(0.01)
            assert server.sent == 2**20
            assert (await post(http, server.url)).body == body
            assert sum([len(piece) async for piece in answer.pieces]) == len(body)
        assert len(server.connections) == 1


async def test_a_stream_that_is_cut_is_told(http: Connections) -> None:
    async def read() -> None:
        async with http.stream("POST", server.url, headers={}, body=b"{}") as answer:
            async for _ in answer.pieces:
                server.connections[0].transport.abort()

    async with H2Server(lambda asked, _, stream: asked.reply(stream, b"abc", end=False)) as server:
        with pytest.raises(ProviderUnreachableError, match="before its answer was whole"):
            await read()
    assert http.statistics().in_flight == 0


async def test_an_upload_waits_for_the_server_and_may_be_cancelled(http: Connections) -> None:
    async with H2Server() as server:
        await post(http, server.url)
        asked = server.connections[0]
        hear, came = asked.hear, 0

        def take_no_more(event: object) -> None:
            nonlocal came
            if isinstance(event, DataReceived):
                came += len(event.data)
            else:
                hear(event)

        asked.hear = take_no_more  # type: ignore[method-assign]
        task = asyncio.create_task(post(http, server.url, b"x" * 1_000_000))
        await until(lambda: came == 65535 - 8)
        task.cancel()
        await asyncio.wait_for(server.reset.wait(), 1)
        assert server.resets == [ErrorCodes.CANCEL]
        assert (await http.send("GET", server.url, headers={})).status == 200
        assert len(server.connections) == 1


async def test_an_upload_holds_no_more_than_the_socket_takes(http: Connections) -> None:
    body = b"x" * 8_000_000
    async with H2Server() as server:
        await post(http, server.url)
        asked = server.connections[0]
        asked.http.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 2**24})
        asked.http.increment_flow_control_window(2**24)
        asked.flush()
        task = asyncio.create_task(post(http, server.url, body))
        await until(lambda: len(asked.headers) == 2)
        asked.transport.pause_reading()
        (origin,) = http._ways["https", None]._origins.values()  # type: ignore[attr-defined]
        await until(lambda: origin.sessions[0]._full)
        asked.transport.resume_reading()
        assert (await task).status == 200
        assert server.requests[1][1] == body


async def test_a_server_that_closes_before_it_speaks_is_unreachable(http: Connections) -> None:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=tls("h2"))
    async with server:
        with pytest.raises(ProviderUnreachableError, match="before it began to speak HTTP/2"):
            await post(http, f"https://localhost:{server.sockets[0].getsockname()[1]}/v1")


async def test_fewer_places_than_before_are_respected(http: Connections) -> None:
    async with H2Server(places=50) as server:
        await post(http, server.url)
        asked = server.connections[0]
        asked.http.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: 1})
        asked.flush()
        replies = await asyncio.gather(*(post(http, server.url) for _ in range(20)))
        assert {reply.status for reply in replies} == {200}


async def test_an_answer_that_is_too_large_is_told_and_ended(
    http: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tanuki_async._pool.exchange.LARGEST_BODY", 100_000)
    async with H2Server(lambda asked, _, stream: asked.reply(stream, b"x" * 2_000_000)) as server:
        with pytest.raises(ProviderUnreachableError, match="larger than 100000 bytes"):
            await post(http, server.url)
        await asyncio.wait_for(server.reset.wait(), 1)
        assert server.sent < 2_000_000


async def test_thousands_at_once_wait_for_their_places(http: Connections) -> None:
    async with H2Server(places=100) as server:
        replies = await asyncio.gather(*(post(http, server.url, None) for _ in range(1000)))
        assert {reply.status for reply in replies} == {200}
        assert len(server.connections) <= 11
    assert http.statistics().in_flight == 0


def test_another_event_loop_will_do() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def main() -> None:
        http = Connections(verify=CERTIFICATE)
        async with H2Server() as modern, RawServer([ok()], tls=tls("http/1.1")) as plain:
            for server in (modern, plain):
                replies = await asyncio.gather(*(post(http, server.url) for _ in range(5)))
                assert {reply.status for reply in replies} == {200}
            await http.aclose()
        assert len(modern.connections) == 1

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


async def test_a_host_that_picks_http_1_is_spoken_to_in_that(http: Connections) -> None:
    last = ok(b"{}", "Connection: close")
    async with RawServer(lambda number: [last, CLOSE] if number == 3 else [ok()], tls=tls("http/1.1")) as server:
        for _ in range(4):
            assert (await post(http, server.url)).status == 200
        async with http.stream("POST", server.url, headers={}, body=b"{}") as answer:
            assert [piece async for piece in answer.pieces] == [b"{}"]
        assert (len(server.requests), server.connections) == (5, 2)


async def test_a_host_may_change_its_mind(http: Connections) -> None:
    async with RawServer([ok(), CLOSE], tls=tls("http/1.1")) as old:
        assert (await post(http, old.url)).body == b"{}"
        way = http._ways["https", None]
        before = way._origins["https", "localhost", int(old.url[18:-3])]  # type: ignore[attr-defined]
    async with H2Server() as new:
        way._origins["https", "localhost", int(new.url[18:-3])] = before  # type: ignore[attr-defined]
        assert (await post(http, new.url)).status == 200
        async with http.stream("POST", new.url, headers={}, body=b"{}") as answer:
            assert [piece async for piece in answer.pieces] == [b"{}"]
        assert len(new.connections) == 1


async def test_a_context_that_offers_http_2_without_the_extra_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import ssl

    monkeypatch.setattr("tanuki_async._pool.trust._load_http2", lambda: False)
    context = ssl.create_default_context(cafile=CERTIFICATE)
    context.set_alpn_protocols(["h2"])
    http = Connections(verify=context)
    async with H2Server() as server:
        with pytest.raises(SettingsError, match=r"tanuki_async\[http2\]"):
            await post(http, server.url)
    await http.aclose()


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_goodbyes_are_sorted_out_however_they_are_cut(cut: int) -> None:
    frames = [b"\0\0\x03\0\0\0\0\0\x01abc", b"\0\0\x0a\x07\0\0\0\0\0\0\0\0\x05\0\0\0\x0bow", b"\0\0\0\x04\x01\0\0\0\0"]
    raw = b"".join([frames[0], frames[1], frames[2], frames[0]])
    goodbyes = Goodbyes()
    pieces = [goodbyes.sift(raw[place : place + cut]) for place in range(0, len(raw), cut)]
    assert b"".join(pieces) == frames[0] + frames[2] + frames[0]
    assert (goodbyes.take(), goodbyes.take()) == ([(5, 11)], [])

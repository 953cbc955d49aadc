"""What every Provider that speaks HTTP promises, checked on each of ours against a server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace

import pytest
from pydantic import TypeAdapter

from examples.own_provider import OwnProvider
from tanuki_async._errors import (
    AuthenticationError,
    ProviderError,
    ProviderUnavailableError,
    ProviderUnreachableError,
    QuotaExceededError,
    RateLimitedError,
    RefusalError,
    RequestRejectedError,
)
from tanuki_async._pool.http import Connections
from tanuki_async._records import AnswerSchema, Attachment, Completion, GenerationParams, Head, Model, Request, Turn
from tanuki_async.abc import Provider
from tanuki_async.providers.anthropic import Anthropic
from tanuki_async.providers.anyscale import Anyscale
from tanuki_async.providers.bedrock import Bedrock
from tanuki_async.providers.openai import OpenAI, OpenAICompatible
from tanuki_async.providers.together import TogetherAI
from tanuki_async.testing import Answer, ChatRequest, Fault, LoopbackServer

TypeAdapter(int)  # pydantic looks for its plugins on disk, once; patched functions always come first

KEY = "sk-contract-secret-0123456789"
SCHEMA = {
    "type": "object",
    "properties": {"value": {"type": "string"}},
    "required": ["value"],
    "additionalProperties": False,
}

MAKERS: dict[str, Callable[[str], Provider]] = {
    "openai": lambda url: OpenAI(KEY, url),
    "responses": lambda url: OpenAI(KEY, url, responses=True),
    "together": lambda url: TogetherAI(KEY, url),
    "anyscale": lambda url: Anyscale(KEY, url),
    "anthropic": lambda url: Anthropic(KEY, url),
    "bedrock": lambda url: Bedrock(KEY, base_url=url),
    "compatible": lambda url: OpenAICompatible(url, api_key=KEY),
    "own": lambda url: OwnProvider(url, KEY),
}
WITHOUT_EMBEDDINGS = {"anthropic", "own"}


@dataclass
class Setup:
    provider: Provider
    server: LoopbackServer
    http: Connections

    @property
    def model(self) -> Model:
        return self.provider.model("some-model")

    def request(self, text: str = "hi", params: GenerationParams | None = None) -> Request:
        answer = AnswerSchema(name="f", schema=dict(SCHEMA), strict=True)
        head = Head(function="f", system="Answer in JSON.", answer=answer, params=params or GenerationParams())
        return Request(model=self.model, head=head, turns=(Turn("user", text),))

    async def ask(self, text: str = "hi") -> str:
        return (await self.provider.complete(self.request(text), self.http)).text


@pytest.fixture(params=list(MAKERS))
async def setup(request: pytest.FixtureRequest) -> AsyncIterator[Setup]:
    async with LoopbackServer(strict=True, api_key=KEY) as server:
        http = Connections()
        yield Setup(MAKERS[request.param](server.url), server, http)
        await http.aclose()


async def test_it_answers_with_the_text_and_what_it_used(setup: Setup) -> None:
    setup.server.put('{"value":"good"}')
    completion = await setup.provider.complete(setup.request(), setup.http)
    assert completion.text == '{"value":"good"}'
    assert completion.usage.requests == 1
    assert completion.usage.input_tokens > 0
    assert completion.usage.output_tokens > 0
    assert not completion.truncated
    assert completion.model
    assert completion.request_id


async def test_the_model_sees_instructions_examples_and_turns_in_order(setup: Setup) -> None:
    await setup.ask("the input")
    (asked,) = setup.server.requests
    assert asked.system == "Answer in JSON."
    assert asked.text == "the input"


async def test_what_is_attached_reaches_the_model_beside_its_text(setup: Setup) -> None:
    picture = Attachment(kind="image", media_type="image/png", data=b"\x89PNG\r\n\x1a\n")
    paper = Attachment(kind="document", media_type="application/pdf", data=b"%PDF-1.7")
    turns = (Turn("user", '{"a":{"image":1}}', (picture, paper)), Turn("assistant", "x"), Turn("user", "again"))
    await setup.provider.complete(replace(setup.request(), turns=turns), setup.http)
    (asked,) = setup.server.requests
    assert asked.arguments == {"a": {"image": 1}}
    assert asked.attachments == (picture, paper)
    assert asked.text == "again"


async def test_an_answer_that_was_cut_off_says_so(setup: Setup) -> None:
    setup.server.put(Answer('{"value":"go', finish_reason="length"))
    completion = await setup.provider.complete(setup.request(), setup.http)
    assert completion.truncated


@pytest.mark.parametrize("answer", [Answer(None, refusal="No."), Answer("x", finish_reason="content_filter")])
async def test_a_refusal_is_an_error_never_a_completion(setup: Setup, answer: Answer) -> None:
    setup.server.put(answer)
    with pytest.raises(RefusalError):
        await setup.ask()


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault.status(400), RequestRejectedError),
        (Fault.status(401), AuthenticationError),
        (Fault.status(402), QuotaExceededError),
        (Fault.status(403), AuthenticationError),
        (Fault.status(404), RequestRejectedError),
        (Fault.status(408), ProviderUnavailableError),
        (Fault.status(409), ProviderUnavailableError),
        (Fault.status(413), RequestRejectedError),
        (Fault.status(422), RequestRejectedError),
        (Fault.status(429, retry_after=3), RateLimitedError),
        (Fault.quota(), QuotaExceededError),
        (Fault.status(500), ProviderUnavailableError),
        (Fault.html(502), ProviderUnavailableError),
        (Fault.status(503), ProviderUnavailableError),
        (Fault.status(529), ProviderUnavailableError),
        (Fault.html(200), ProviderUnavailableError),
        (Fault.cut_midway(), ProviderUnreachableError),
        (Fault.disconnect(), ProviderUnreachableError),
    ],
    ids=str,
)
async def test_what_goes_wrong_has_its_class_and_its_facts_and_is_not_retried(
    setup: Setup, fault: Fault, kind: type[ProviderError]
) -> None:
    setup.server.put(fault)
    with pytest.raises(ProviderError) as caught:
        await setup.ask()
    error = caught.value
    assert type(error) is kind
    assert (error.provider, error.model) == (setup.provider.name, "some-model")
    assert KEY not in f"{error!r} {error}"
    assert len(str(error)) < 500
    asked = [request for request in setup.server.requests if isinstance(request, ChatRequest)]
    assert len(asked) == 1
    if kind is RateLimitedError:
        assert error.retry_after == 3.0


async def test_cancelling_leaves_no_request_running(setup: Setup) -> None:
    setup.server.put(Fault.hang())
    task = asyncio.create_task(setup.ask())
    await setup.server.wait_requests()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.01)
    assert (setup.server.in_flight, setup.http.statistics().in_flight) == (0, 0)


async def test_many_calls_at_once_do_not_mix_their_answers(setup: Setup) -> None:
    setup.server.put(*([lambda request: request.text] * 50))
    texts = [f"input {number}" for number in range(50)]
    assert await asyncio.gather(*map(setup.ask, texts)) == texts


async def test_embeddings_come_one_per_text_in_order(setup: Setup) -> None:
    texts = ["cats", "dogs", "cats"]
    if setup.provider.name in WITHOUT_EMBEDDINGS:
        with pytest.raises(RequestRejectedError, match="no embeddings"):
            await setup.provider.embed(setup.model, texts, setup.http)
        return
    vectors, usage = await setup.provider.embed(setup.provider.model("text-embedding-3-small"), texts, setup.http)
    assert len(vectors) == 3
    assert vectors[0] == vectors[2] != vectors[1]
    assert all(isinstance(number, float) for number in vectors[0])
    assert 1 <= usage.requests <= 3  # a list at once, or one by one


async def test_one_instance_serves_several_loops(setup: Setup) -> None:
    await setup.ask()

    async def elsewhere() -> str:
        http = Connections()
        try:
            return (await setup.provider.complete(setup.request(), http)).text
        finally:
            await http.aclose()

    texts: list[str] = []
    thread = threading.Thread(target=lambda: texts.append(asyncio.run(elsewhere())))
    thread.start()
    await asyncio.to_thread(thread.join)
    assert len(texts) == 1


async def test_its_texts_never_show_the_key(setup: Setup) -> None:
    await setup.ask()
    assert KEY not in repr(setup.provider)
    assert KEY not in str(setup.provider)


def test_a_model_nobody_knows_is_described_not_refused() -> None:
    for make in MAKERS.values():
        provider = make("http://host.invalid/v1")
        model = provider.model("made-up-today")
        assert (model.provider, model.name) == (provider.name, "made-up-today")
        assert model.context_window > 0


async def streamed(setup: Setup) -> tuple[str, list[object]]:
    pieces = [piece async for piece in setup.provider.stream(setup.request(), setup.http)]
    return "".join([piece for piece in pieces if isinstance(piece, str)]), pieces


async def test_a_stream_gives_the_text_in_pieces_and_a_completion_last(setup: Setup) -> None:
    setup.server.put('{"value":"a long good answer"}')
    text, pieces = await streamed(setup)
    assert text == '{"value":"a long good answer"}'
    last = pieces[-1]
    assert isinstance(last, Completion)
    assert (last.text, last.usage.requests, last.truncated) == (text, 1, False)


async def test_a_stream_says_that_it_was_cut_off(setup: Setup) -> None:
    setup.server.put(Answer('{"value":"go', finish_reason="length"))
    _, pieces = await streamed(setup)
    assert isinstance(pieces[-1], Completion)
    assert pieces[-1].truncated


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Answer(None, refusal="No."), RefusalError),
        (Answer("x", finish_reason="content_filter"), RefusalError),
        (Fault.status(401), AuthenticationError),
        (Fault.status(429), RateLimitedError),
        (Fault.status(500), ProviderUnavailableError),
        (Fault.disconnect(), ProviderUnreachableError),
        (Fault.cut_midway(), ProviderUnreachableError),
        (Fault.empty_choices(), ProviderUnavailableError),
    ],
)
async def test_a_stream_fails_as_an_answer_does(
    setup: Setup, answer: Answer | Fault, kind: type[ProviderError]
) -> None:
    setup.server.put(answer)
    with pytest.raises(kind) as caught:
        await streamed(setup)
    assert caught.value.provider == setup.provider.name
    assert KEY not in str(caught.value)
    assert setup.http.statistics().in_flight == 0

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import pytest

from tanuki_async import _errors as errors
from tanuki_async import _records as records
from tanuki_async.abc import Http
from tanuki_async.testing import Answer, ChatRequest, FakeProvider, Fault, ScriptError, Value

HTTP = cast("Http", None)
SCHEMA: records.JsonSchema = {"type": "object", "properties": {"value": {"enum": ["good", "bad"]}}}


def request(*turns: records.Turn) -> records.Request:
    return records.Request(
        model=records.Model(provider="fake", name="teacher"),
        head=records.Head(
            function="f",
            system="Classify.",
            examples=(records.Turn("user", '{"text": "old"}'), records.Turn("assistant", '{"value": "bad"}')),
            answer=records.AnswerSchema(name="f", schema=SCHEMA, strict=True),
        ),
        turns=turns or (records.Turn("user", '{"text": "hi"}'),),
    )


async def ask(provider: FakeProvider) -> records.Completion:
    return await provider.complete(request(), HTTP)


async def test_an_answerer_gets_what_the_loopback_server_would_give_it() -> None:
    seen: list[ChatRequest] = []

    async def answer(asked: ChatRequest) -> Value:
        seen.append(asked)
        return Value("good")

    completion = await FakeProvider(answer).complete(
        request(
            records.Turn("user", '{"text": "hi"}'),
            records.Turn("assistant", "what?"),
            records.Turn("user", "That does not fit."),
        ),
        HTTP,
    )
    assert json.loads(completion.text) == {"value": "good"}
    assert completion.usage.requests == 1
    assert seen[0].arguments == {"text": "hi"}
    assert seen[0].text == "That does not fit."
    assert (seen[0].system, seen[0].model, seen[0].schema_name) == ("Classify.", "teacher", "f")


async def test_a_script_of_values_answers_refusals_and_errors() -> None:
    failure = errors.ProviderUnavailableError("ill", status=503)
    provider = FakeProvider(["text", 3, Answer("cut", finish_reason="length"), Fault.refusal("no"), failure])
    assert (await ask(provider)).text == "text"
    assert (await ask(provider)).text == '{"value": 3}'
    assert (await ask(provider)).truncated
    with pytest.raises(errors.RefusalError, match="no"):
        await ask(provider)
    with pytest.raises(errors.ProviderUnavailableError) as raised:
        await ask(provider)
    assert (raised.value.provider, raised.value.model, raised.value.status) == ("fake", "teacher", 503)
    provider.assert_done()
    with pytest.raises(ScriptError, match="has 5 answers; this is request 6"):
        await ask(provider)


async def test_steps_left_over_are_reported() -> None:
    provider = FakeProvider()
    provider.put("a", "b")
    assert (await ask(provider)).text == "a"
    with pytest.raises(ScriptError, match="1 scripted answers"):
        provider.assert_done()


async def test_without_an_answerer_the_plainest_fitting_value_is_answered() -> None:
    assert json.loads((await ask(FakeProvider())).text) == {"value": "good"}


async def test_it_fails_as_often_as_told() -> None:
    provider = FakeProvider("ok")
    provider.fail(errors.ProviderUnreachableError("gone"), times=2)
    for _ in range(2):
        with pytest.raises(errors.ProviderUnreachableError):
            await ask(provider)
    assert (await ask(provider)).text == "ok"


async def test_it_fails_until_it_recovers() -> None:
    provider = FakeProvider("ok")
    provider.fail(errors.AuthenticationError("bad key"), times=None)
    for _ in range(3):
        with pytest.raises(errors.AuthenticationError):
            await ask(provider)
    provider.recover()
    assert (await ask(provider)).text == "ok"


async def test_it_limits() -> None:
    provider = FakeProvider("ok")
    provider.limit(retry_after=2.5)
    with pytest.raises(errors.RateLimitedError) as raised:
        await ask(provider)
    assert raised.value.retry_after == 2.5
    assert (await ask(provider)).text == "ok"


async def test_it_hangs_until_it_recovers_or_the_call_is_cancelled() -> None:
    provider = FakeProvider("ok")
    provider.hang()
    patient, hasty = asyncio.create_task(ask(provider)), asyncio.create_task(ask(provider))
    await provider.wait_called(2)
    assert provider.running == 2
    hasty.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hasty
    assert provider.running == 1
    provider.recover()
    assert (await patient).text == "ok"
    assert (provider.running, provider.max_running) == (0, 2)


async def test_embeddings_are_the_same_everywhere_and_may_be_scripted() -> None:
    provider, other = FakeProvider(dimensions=4), FakeProvider(dimensions=4)
    model = provider.model("e")
    vectors, usage = await provider.embed(model, ["a b", "c"], HTTP)
    assert vectors == (await other.embed(model, ["a b", "c"], HTTP))[0]
    assert [len(vector) for vector in vectors] == [4, 4]
    assert usage.requests == 1
    assert provider.embedded == [("a b", "c")]
    scripted = FakeProvider(embedding=[[[1.0]]])
    assert (await scripted.embed(model, ["a"], HTTP))[0] == [[1.0]]


async def test_a_fault_of_the_wire_says_where_it_belongs() -> None:
    with pytest.raises(TypeError, match="LoopbackServer"):
        await ask(FakeProvider([Fault.html()]))


async def test_models_may_be_described() -> None:
    described = records.Model(provider="mine", name="m", context_window=10)
    provider: Any = FakeProvider(name="mine", models={"m": described})
    assert provider.model("m") is described
    assert str(provider.model("other")) == "mine:other"


def test_one_provider_serves_several_loops() -> None:
    provider = FakeProvider("ok")
    assert [asyncio.run(ask(provider)).text for _ in range(2)] == ["ok", "ok"]

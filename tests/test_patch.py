"""The decorator: what it keeps of a stub, what it refuses, and that nothing leaks from one function to another."""

import asyncio
import copy
import functools
import inspect
import pickle
from collections.abc import AsyncIterator
from enum import Enum
from typing import Annotated, Any, Literal, Self

import _postponed
import pytest
from _spine import last_user_turn, recorded, settings_for, tanuki_for
from pydantic import BaseModel, Field

import tanuki_async as tanuki
from tanuki_async import InputError, Limits, Model, NotOpenError, SettingsError, StubError, Tanuki, UsageError
from tanuki_async.providers.openai import OpenAICompatible
from tanuki_async.storage.memory import MemoryStorage
from tanuki_async.testing import FakeProvider, LoopbackServer
from tanuki_async.testing.answers import ChatRequest


@tanuki.patch
async def classify(text: str) -> Literal["good", "bad"] | None:
    """Classify a text.

    A second paragraph.
    """


@tanuki.patch(timeout=30, max_repairs=0)
async def count(text: str, *, words: bool = True) -> int:
    """Count words or letters."""
    raise NotImplementedError


@tanuki.patch
async def bare(text: str) -> str:
    pass


@tanuki.patch()
async def with_message(text: str) -> str:
    """Echo."""
    raise NotImplementedError("a model answers")


@tanuki.patch
async def everything(
    a: int, /, b: str, c: float = 0.5, *rest: int, d: bool, e: Literal["x", "y"] = "y", **more: str
) -> str:
    """Take arguments of every kind."""


class Person(BaseModel):
    name: str


class Clerk:
    def __init__(self, name: str) -> None:
        self.name = name

    @tanuki.patch
    async def greet(self, other: "Person") -> str:
        """Greet somebody."""

    @classmethod
    @tanuki.patch
    async def title(cls, level: int = 1) -> str:
        """Name a title."""

    @staticmethod
    @tanuki.patch
    async def add(a: int, b: int) -> int:
        """Add."""

    class Drawer:
        @tanuki.patch
        async def content(self, label: str) -> list[str]:
            """List what is inside."""


class Chief(Clerk):
    pass


@pytest.fixture
async def server() -> AsyncIterator[LoopbackServer]:
    async with LoopbackServer(strict=True) as running:
        yield running


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
async def opened(server: LoopbackServer, storage: MemoryStorage) -> AsyncIterator[Tanuki]:
    async with tanuki_for(server, storage) as running:
        yield running


def body(server: LoopbackServer, place: int = -1) -> dict[str, Any]:
    return dict(server.requests[place].body)


# What is kept


async def test_every_form_of_stub_is_answered(opened: Tanuki, server: LoopbackServer) -> None:
    server.put('{"value":"bad"}', '{"value":3}', '{"value":"a"}', '{"value":"b"}')

    assert await classify("x") == "bad"
    assert await count("a b c") == 3
    assert await bare("x") == "a"
    assert await with_message("x") == "b"


def test_a_patched_function_looks_like_its_stub() -> None:
    assert inspect.iscoroutinefunction(classify)
    assert asyncio.iscoroutinefunction(classify)
    assert str(inspect.signature(classify)) == "(text: str) -> Optional[Literal['good', 'bad']]"
    assert inspect.signature(everything).parameters["c"].default == 0.5
    assert classify.__doc__ is not None
    assert classify.__doc__.startswith("Classify a text.")
    assert classify.__name__ == "classify"
    assert classify.__qualname__ == "classify"
    assert classify.__module__ == __name__
    assert Clerk.Drawer.content.__qualname__ == "Clerk.Drawer.content"
    assert classify.__annotations__ == {"text": str, "return": Literal["good", "bad"] | None}


def test_a_patched_function_pickles_by_reference() -> None:
    assert pickle.loads(pickle.dumps(classify)) is classify
    assert pickle.loads(pickle.dumps(Clerk.greet)) is Clerk.greet
    assert copy.deepcopy(classify) is classify
    assert pickle.loads(pickle.dumps(functools.partial(classify, "x"))).func is classify


def test_calling_makes_a_coroutine_and_sends_nothing() -> None:
    coroutine = classify("x")

    assert inspect.iscoroutine(coroutine)
    coroutine.close()


async def test_methods_are_bound_and_self_stays_here(
    opened: Tanuki, server: LoopbackServer, storage: MemoryStorage
) -> None:
    ada = Person(name="Ada")
    server.put(*['{"value":"hello"}'] * 6, '{"value":3}', '{"value":["pen"]}')

    assert await Clerk("secret").greet(ada) == "hello"
    assert await Clerk("other").greet(other=ada) == "hello"
    assert await Clerk.greet(Clerk("third"), ada) == "hello"
    assert await Chief("fourth").greet({"name": "Ada"}) == "hello"  # type: ignore[arg-type]
    assert await Clerk.title(2) == "hello"
    assert await Chief("fifth").title(level=2) == "hello"
    assert await Clerk.add(1, b=2) == 3
    assert await Clerk.Drawer().content("top") == ["pen"]

    sent = [last_user_turn(server, place) for place in range(8)]
    assert sent[:4] == ['{"other":{"name":"Ada"}}'] * 4
    assert sent[4:] == ['{"level":2}', '{"level":2}', '{"a":1,"b":2}', '{"label":"top"}']
    assert not any("self" in str(r.body) or "secret" in str(r.body) for r in server.requests)
    assert [r["args"] for r in await recorded(storage, Clerk.greet)] == [[{"name": "Ada"}]]
    assert [r["args"] for r in await recorded(storage, Clerk.title)] == [[2]]


class Vault(BaseModel):
    code: str

    @tanuki.patch
    async def typed(self: "Vault", text: str) -> int:
        """Count."""
        ...

    @tanuki.patch
    async def own(self: Self, text: str) -> int:
        """Count."""
        ...

    @classmethod
    @tanuki.patch
    async def of_class(cls: "type[Vault]", text: str) -> int:
        """Count."""
        ...

    @staticmethod
    @tanuki.patch
    async def label(cls: Literal["a", "b"]) -> int:
        """Count."""
        ...


async def test_self_and_cls_stay_here_with_a_type_too(opened: Tanuki, server: LoopbackServer) -> None:
    server.put(*['{"value":1}'] * 4)

    for f in (Vault(code="secret").typed, Vault(code="secret").own, Vault.of_class):
        assert await f("x") == 1
        assert last_user_turn(server) == '{"text":"x"}'
    assert await Vault.label("a") == 1
    assert last_user_turn(server) == '{"cls":"a"}'


async def test_arguments_of_every_kind_are_sent_by_name_and_recorded_by_place(
    opened: Tanuki, server: LoopbackServer, storage: MemoryStorage
) -> None:
    server.put(*['{"value":"ok"}'] * 3)

    await everything(1, "b", d=True)
    await everything(1, b="b", d=True, e="x")
    await everything(1, "b", 2, 3, 4, d=False, extra="é", b2="z")

    assert [last_user_turn(server, place) for place in range(3)] == [
        '{"a":1,"b":"b","c":0.5,"rest":[],"d":true,"e":"y","more":{}}',
        '{"a":1,"b":"b","c":0.5,"rest":[],"d":true,"e":"x","more":{}}',
        '{"a":1,"b":"b","c":2.0,"rest":[3,4],"d":false,"e":"y","more":{"extra":"é","b2":"z"}}',
    ]
    assert [(r["args"], r["kwargs"]) for r in await recorded(storage, everything)] == [
        ([1, "b", 0.5], {"d": True, "e": "y"}),
        ([1, "b", 0.5], {"d": True, "e": "x"}),
        ([1, "b", 2.0, 3, 4], {"d": False, "e": "y", "extra": "é", "b2": "z"}),
    ]


async def test_the_docstring_and_signature_reach_the_model(opened: Tanuki, server: LoopbackServer) -> None:
    await classify("hello")

    told = server.requests[0].system
    assert "Classify a text." in told
    assert "A second paragraph." in told
    assert "def classify(text: str) -> Literal['good', 'bad'] | None" in told


# Annotations as text


async def test_postponed_annotations_find_local_types(opened: Tanuki, server: LoopbackServer) -> None:
    route, stop, result = _postponed.with_local_types()
    server.put('{"stops":[{"name":"a"}]}', '{"name":"pen","price":1}', '{"text":"x"}')

    planned = await route("bus", stop(name="a"))
    item = await _postponed.Shop().cheapest([_postponed.Shop.Item(name="pen", price=1)])

    assert type(planned) is result
    assert type(planned.stops[0]) is stop
    assert type(item) is _postponed.Shop.Item
    assert type(await _postponed.later("x")) is _postponed.Later


async def test_an_annotation_that_never_resolves_says_so_at_the_first_call(opened: Tanuki) -> None:
    with pytest.raises(StubError, match="Fraction"):
        await _postponed.never("x")


async def test_a_function_made_in_a_coroutine_uses_its_types(opened: Tanuki, server: LoopbackServer) -> None:
    class Local(BaseModel):
        n: int

    @tanuki.patch
    async def make(text: str) -> "list[Local]":
        """Make some."""

    server.put('{"value":[{"n":1}]}')

    assert await make("x") == [Local(n=1)]


# As others use it


async def test_a_framework_can_read_the_signature_and_inject_arguments(opened: Tanuki, server: LoopbackServer) -> None:
    fastapi = pytest.importorskip("fastapi")
    testing = pytest.importorskip("httpx")
    app = fastapi.FastAPI()
    server.put('{"value":"good"}', '{"value":4}')

    @app.get("/mood")
    async def mood(found: Annotated[str, fastapi.Depends(classify)]) -> str:
        return found

    app.get("/count")(count)

    transport = testing.ASGITransport(app=app)
    async with testing.AsyncClient(transport=transport, base_url="http://app") as client:
        assert (await client.get("/mood", params={"text": "hello"})).json() == "good"
        assert (await client.get("/count", params={"text": "hello", "words": "false"})).json() == 4
        assert (await client.get("/mood")).status_code == 422
    assert last_user_turn(server) == '{"text":"hello","words":false}'


async def test_partials_gather_and_tasks_work(opened: Tanuki, server: LoopbackServer) -> None:
    greet = functools.partial(Clerk("x").greet, Person(name="Ada"))

    assert len(await asyncio.gather(greet(), asyncio.create_task(greet()), classify("x"))) == 3


# What is refused at decoration


def refused(make: Any) -> str:
    with pytest.raises(StubError) as caught:
        make()
    return str(caught.value)


def test_a_body_is_refused() -> None:
    def with_return() -> None:
        @tanuki.patch
        async def f(text: str) -> str:
            """Doc."""
            return text

    def with_none() -> None:
        @tanuki.patch
        async def f(text: str) -> None:
            return None

    def with_work() -> None:
        @tanuki.patch
        async def f(text: str) -> None:
            """Doc."""
            print(text)  # noqa: T201

    def with_other_error() -> None:
        @tanuki.patch
        async def f(text: str) -> str:
            raise ValueError

    for make in (with_return, with_none, with_work, with_other_error):
        said = refused(make)
        assert "f() has a body" in said
        assert "docstring" in said
        assert "raise NotImplementedError" in said


def test_what_is_no_async_function_is_refused() -> None:
    def plain() -> None:
        @tanuki.patch  # type: ignore[arg-type]
        def f(text: str) -> str: ...

    def generator() -> None:
        @tanuki.patch  # type: ignore[arg-type]
        async def f(text: str) -> Any:
            yield text

    def a_class() -> None:
        @tanuki.patch  # type: ignore[arg-type]
        class F:
            pass

    assert "async def" in refused(plain)
    assert "yield" in refused(generator)
    assert "a class" in refused(a_class)
    assert "a lambda" in refused(lambda: tanuki.patch(lambda: None))  # type: ignore[arg-type, return-value]
    assert "async def" in refused(lambda: tanuki.patch(len))  # type: ignore[arg-type]


def test_missing_annotations_are_refused_by_name() -> None:
    def no_return() -> None:
        @tanuki.patch
        async def f(text: str): ...

    def no_type() -> None:
        @tanuki.patch
        async def f(text) -> str: ...

    def self_outside_of_a_class() -> None:
        @tanuki.patch
        async def f(self, text: str) -> str: ...

    assert "-> …" in refused(no_return)
    assert "'text' has no type: write `text: …`" in refused(no_type)
    assert "'self' has no type" in refused(self_outside_of_a_class)


def test_decorators_in_the_wrong_order_are_refused() -> None:
    def below() -> None:
        class C:
            @tanuki.patch  # type: ignore[arg-type]
            @classmethod
            async def f(cls) -> str: ...

    def static() -> None:
        class C:
            @tanuki.patch  # type: ignore[arg-type]
            @staticmethod
            async def f() -> str: ...

    assert "put @classmethod above @patch" in refused(below)
    assert "put @staticmethod above @patch" in refused(static)


def test_types_that_cannot_travel_are_refused() -> None:
    def function_result() -> None:
        from collections.abc import Callable

        @tanuki.patch
        async def f(text: str) -> Callable[[], int]: ...

    def unknown_class() -> None:
        class Opaque:
            def __init__(self, thing) -> None: ...  # type: ignore[no-untyped-def]

        @tanuki.patch
        async def f(text: str) -> Opaque: ...

    def bad_default() -> None:
        @tanuki.patch
        async def f(n: int = None) -> str: ...  # type: ignore[assignment]  # noqa: RUF013

    def bad_embedding() -> None:
        @tanuki.patch
        async def f(text: str) -> tanuki.Embedding[str]: ...

    def literal_bytes() -> None:
        @tanuki.patch
        async def f(text: str) -> Literal[b"x"]: ...

    def opaque_members() -> None:
        things = Enum("things", {"A": object()})

        @tanuki.patch
        async def f(text: str) -> things: ...  # type: ignore[valid-type]

    assert "write a Literal of texts" in refused(literal_bytes)
    assert "enum's value" in refused(opaque_members)
    assert "f(): the type of what it returns cannot be used" in refused(function_result)
    assert "annotate each" in refused(unknown_class)
    assert "the default of 'n' does not fit" in refused(bad_default)
    assert "Embedding[list[float]]" in refused(bad_embedding)


def test_positional_arguments_are_refused_with_the_right_form() -> None:
    for give in (lambda: tanuki.patch("openai:gpt"), lambda: tanuki.patch(classify, classify), lambda: tanuki.patch(1)):  # type: ignore[arg-type, call-overload]
        with pytest.raises(TypeError, match=r"@tanuki\.patch\(teacher_models="):
            give()
    with pytest.raises(TypeError, match="keywords only"):
        tanuki.patch(classify, timeout=1)  # type: ignore[call-overload]


BAD_KEYWORDS: list[tuple[dict[str, Any], str]] = [
    ({"teacher_model": "openai:x"}, "did you mean 'teacher_models'"),
    ({"timeout": 0}, "timeout is in seconds"),
    ({"max_repairs": -1}, "max_repairs must be 0 or more"),
    ({"distill_after": 0}, "distill_after counts examples"),
    ({"audit_rate": 2}, "between 0 and 1"),
    ({"min_agreement": -0.1}, "between 0 and 1"),
    ({"teacher_models": "gpt-6"}, "'provider:name'"),
    ({"teacher_models": ["openai:gpt-6.2-sol", "x"]}, "'provider:name'"),
    ({"teacher_models": []}, "teacher_models is empty"),
    ({"teacher_models": 1}, "a model or a list of them"),
    ({"teacher_models": ["openai:gpt-6.2-sol", None]}, "'provider:name'"),
    ({"timeout": "60"}, "timeout is a number"),
    ({"max_repairs": "2"}, "max_repairs is an integer"),
    ({"distill_after": None}, "distill_after is an integer"),
    ({"environment_id": "blue"}, "environment_id is an integer"),
    ({"audit_rate": "1"}, "audit_rate is a number"),
    ({"teacher_models": "gpt-4"}, "retired; use 'openai:"),
    ({"generation_params": {"temprature": 1}}, "did you mean 'temperature'"),
    ({"generation_params": {"temperature": "hot"}}, "'temperature' is a number"),
    ({"generation_params": {"max_new_tokens": 0}}, "1 or more"),
    ({"generation_params": {"seed": 1.5}}, "'seed' is an integer"),
    ({"generation_params": {"stop": [1]}}, "'stop' is a string or a list of strings"),
    ({"generation_params": {"stop": 1}}, "'stop' is a string or a list of strings"),
    ({"generation_params": {"temperature": float("nan")}}, "finite"),
    ({"generation_params": 0.5}, "generation_params is a dict"),
    ({"ignore_finetuning": "no"}, "True or False"),
]


@pytest.mark.parametrize(("keywords", "words"), BAD_KEYWORDS, ids=str)
def test_keywords_that_cannot_work_are_refused_at_decoration(keywords: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=r"@tanuki\.patch: ") as caught:
        tanuki.patch(**keywords)
    assert words in str(caught.value)


# Arguments


@pytest.mark.parametrize(
    ("call", "parameter", "words"),
    [
        (lambda: classify(3), "text", "should be str, got 3"),
        (lambda: classify(), "text", "is missing"),
        (lambda: classify("a", "b"), None, "takes 1 arguments by place, but got 2"),
        (lambda: classify("a", text="b"), "text", "given twice"),
        (lambda: classify("a", tone="b"), "tone", "not a parameter"),
        (lambda: everything(1, "b"), "d", "is missing"),
        (lambda: everything(a=1, b="b", d=True), "a", "is missing"),
        (lambda: everything(1, "b", d=True, e="z"), "e", "should be Literal['x', 'y']"),
        (lambda: everything(1, "b", 1.0, "x", d=True), "rest", "should be int, got 'x'"),
        (lambda: everything(1, "b", d=True, extra=1), "more", "should be str, got 1"),
        (lambda: Clerk("x").greet({"nam": "Ada"}), "other", "at name: "),
        (lambda: Clerk.add("x", 1), "a", "should be int"),
    ],
)
async def test_arguments_that_do_not_fit_name_the_parameter_and_send_nothing(
    opened: Tanuki, server: LoopbackServer, call: Any, parameter: str | None, words: str
) -> None:
    with pytest.raises(InputError) as caught:
        await call()

    assert caught.value.parameter == parameter
    assert words in str(caught.value)
    assert parameter is None or f"argument {parameter!r} of " in str(caught.value)
    assert not server.requests


# One function does not touch another


async def test_two_functions_never_influence_each_other(opened: Tanuki, server: LoopbackServer) -> None:
    @tanuki.patch(generation_params={"temperature": 0.5}, max_repairs=0, ignore_data_storage=True)
    async def one(text: str) -> int:
        """One."""

    @tanuki.patch
    async def two(text: str) -> int:
        """Two."""

    server.put('{"value":1}', '{"value":2}', '"x"', '"x"', '{"value":4}')

    assert (await one("a"), await two("a")) == (1, 2)
    assert body(server, 0)["temperature"] == 0.5
    assert "temperature" not in body(server, 1)
    with pytest.raises(tanuki.OutputError):
        await one("b")
    assert await two("b") == 4
    assert len(server.requests) == 5
    assert tanuki.describe(two).options.max_repairs == 2


async def test_one_stub_decorated_twice_keeps_two_sets_of_options(opened: Tanuki, server: LoopbackServer) -> None:
    async def f(text: str) -> int:
        """Count."""

    warm, plain = tanuki.patch(generation_params={"temperature": 1.0})(f), tanuki.patch(f)
    server.put('{"value":1}', '{"value":1}')

    await warm("x")
    await plain("x")

    assert body(server, 0)["temperature"] == 1.0
    assert "temperature" not in body(server, 1)


def test_what_the_user_gave_is_neither_kept_nor_changed() -> None:
    params = {"stop": ["a"], "temperature": 0.1}
    teachers = ["openai:gpt-6-luna"]

    @tanuki.patch(generation_params=params, teacher_models=teachers)
    async def f(text: str) -> int:
        """Count."""

    params["temperature"] = 2.0
    teachers.append("openai:other")

    options = tanuki.describe(f).options
    assert options.generation_params.temperature == 0.1
    assert options.teacher_models == ("openai:gpt-6-luna",)


async def test_generation_params_are_sent_only_when_asked(opened: Tanuki, server: LoopbackServer) -> None:
    @tanuki.patch(
        generation_params={
            "temperature": 0.0, "top_p": 0.5, "max_new_tokens": 77, "seed": 7, "stop": "END",
            "frequency_penalty": 0.25, "presence_penalty": -0.25,
        }
    )  # fmt: skip
    async def tuned(text: str) -> int:
        """Count."""

    server.put('{"value":1}', '{"value":1}')
    await tuned("x")
    await count("x")

    sent = body(server, 0)
    assert (sent["temperature"], sent["top_p"], sent["max_tokens"], sent["seed"]) == (0.0, 0.5, 77, 7)
    assert (sent["stop"], sent["frequency_penalty"], sent["presence_penalty"]) == (["END"], 0.25, -0.25)
    assert set(body(server, 1)) == {"model", "messages", "response_format"}


# Models, providers and keys


async def test_a_teacher_may_be_a_model_object(server: LoopbackServer, storage: MemoryStorage) -> None:
    model = Model(provider="loopback", name="own", structured="json_object", token_field="max_completion_tokens")

    @tanuki.patch(teacher_models=model, generation_params={"max_new_tokens": 9})
    async def f(text: str) -> int:
        """Count."""

    server.put('{"value":1}')
    async with tanuki_for(server, storage):
        assert await f("x") == 1

    assert body(server)["model"] == "own"
    assert body(server)["response_format"] == {"type": "json_object"}
    assert body(server)["max_completion_tokens"] == 9


@tanuki.patch(teacher_models="opnai:gpt-6.2-sol")
async def misspelt(text: str) -> int:
    """Count."""


async def test_an_unknown_provider_is_named_at_the_first_call(opened: Tanuki) -> None:
    with pytest.raises(SettingsError, match="no provider is called 'opnai'; did you mean 'openai'") as caught:
        await misspelt("x")
    assert "OpenAICompatible" in str(caught.value)


async def test_an_unknown_model_is_the_providers_to_refuse(server: LoopbackServer, storage: MemoryStorage) -> None:
    from tanuki_async.testing import Fault

    server.put(Fault.status(404, message="The model `tiny` does not exist", code="model_not_found"))
    async with tanuki_for(server, storage, teacher_models="loopback:tiny"):
        with pytest.raises(tanuki.RequestRejectedError, match=r"loopback:tiny: The model `tiny` does not exist"):
            await classify("x")
    assert [request.path for request in list(server.requests)[1:]] == ["/v1/models"]  # which explains it


async def test_a_missing_key_names_its_variable(storage: MemoryStorage) -> None:
    async with Tanuki(storage=storage):
        with pytest.raises(SettingsError, match="OPENAI_API_KEY"):
            await classify("x")


async def test_a_key_is_read_at_the_first_call_and_never_shown(
    server: LoopbackServer, storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from tanuki_async.testing import Fault

    caplog.set_level("DEBUG")
    server.put('{"value":"good"}', *[Fault.status(401, message="Incorrect API key provided: sk-secret-12345.")] * 2)
    async with Tanuki(storage=storage) as opened:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-12345")
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        assert await classify("x") == "good"
        with pytest.raises(tanuki.AuthenticationError) as caught:
            await classify("y")
        shown = repr((opened, opened.statistics(), opened.settings))

    assert server.requests[0].headers["authorization"] == "Bearer sk-secret-12345"
    assert "sk-secret" not in str(caught.value) + repr(caught.value) + repr(caught.value.args)
    assert "sk-secret" not in caplog.text + shown
    lines = [line async for name in _each(await storage.names()) async for line in storage.scan(name)]
    assert "sk-secret" not in str(lines)


async def _each(names: list[str]) -> AsyncIterator[str]:
    for name in names:
        yield name


async def test_two_providers_of_one_name_are_refused(server: LoopbackServer, storage: MemoryStorage) -> None:
    providers = [OpenAICompatible(server.url, name="a"), OpenAICompatible(server.url, name="a")]

    with pytest.raises(SettingsError, match="two providers are called 'a'"):
        Tanuki(**settings_for(server, storage, providers=providers))


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"teacher": "x"}, "unknown keyword 'teacher'; did you mean 'teacher_models'"),
        ({"teacher_models": []}, "teacher_models is empty"),
        ({"teacher_models": "nonsense"}, "'provider:name'"),
        ({"flush_interval": 0}, "flush_interval must be greater than 0"),
        ({"queue_bytes": -1}, "queue_bytes must be greater than 0"),
        ({"audit_rate": 1.5}, "between 0 and 1"),
        ({"providers": ["openai"]}, "Provider instances"),
        ({"providers": FakeProvider()}, "a list of Provider instances"),
        ({"limits": Limits(concurrency=3)}, "Limits by provider name"),
        ({"limits": {"openai": 3}}, "Limits by provider name"),
        ({"limits": {"opnai": Limits(concurrency=3)}}, "did you mean 'openai'"),
        ({"min_agreement": None}, "min_agreement is a number"),
        ({"storage": "mongodb://x"}, "of no known kind"),
        ({"storage": "redis::secret@x"}, "storage 'redis://x' is of no known kind"),
        ({"storage": "file://"}, "of no known kind"),
        ({"storage": 3}, "storage is a directory"),
        ({"close_timeout": "1"}, "close_timeout is a number"),
        ({"embedding_model": 3}, "'provider:name'"),
    ],
    ids=lambda each: each if isinstance(each, str) else "given",  # an object's address differs from run to run
)
def test_settings_that_cannot_work_are_refused(keywords: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Tanuki(**keywords)
    assert words in str(caught.value)


def test_a_call_outside_of_a_loop_says_how_to_make_one() -> None:
    coroutine = classify("x")
    with pytest.raises(NotOpenError, match=r"asyncio\.run\(main\(\)\)"):
        coroutine.send(None)


# Looking at a function


def test_describe_needs_no_loop() -> None:
    found = tanuki.describe(everything)

    assert found.name == "everything"
    assert found.signature.startswith("def everything(a: int, /, b: str, c: float = 0.5, *rest: int, d: bool")
    assert len(found.hash) == 32
    assert not found.closed
    assert tanuki.describe(classify).closed
    assert tanuki.describe(Clerk("x").greet).hash == tanuki.describe(Clerk.greet).hash
    assert tanuki.describe(Clerk.title).qualname == "Clerk.title"


def test_describe_refuses_what_is_not_patched() -> None:
    async def f() -> None: ...

    for other in (f, len, 3):
        with pytest.raises(UsageError, match=r"@tanuki\.patch"):
            tanuki.describe(other)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"classify\(…\) is a call; give the function itself"):
        tanuki.describe(classify("x"))  # type: ignore[arg-type]


async def test_a_field_as_a_default_checks_the_argument(opened: Tanuki, server: LoopbackServer) -> None:
    @tanuki.patch
    async def f(n: int = Field(gt=0, description="How many.")) -> int:
        """Count."""

    server.put('{"value":1}')

    assert await f(1) == 1
    with pytest.raises(InputError, match="greater than 0"):
        await f(0)
    with pytest.raises(InputError, match="is missing"):
        await f()


def answer_model(request: ChatRequest) -> Any:
    return {"value": request.model}


async def test_a_functions_teachers_come_before_the_settings(server: LoopbackServer, storage: MemoryStorage) -> None:
    server.put(answer_model, answer_model)

    @tanuki.patch(teacher_models=["loopback:own", "loopback:other"])
    async def own(text: str) -> str:
        """Say."""

    async with tanuki_for(server, storage):
        assert await own("x") == "own"
        assert await bare("x") == "small"


@pytest.mark.parametrize(
    ("keywords", "told"),
    [
        ({"student_model": "lokal"}, "'auto', 'local', None"),
        ({"student_model": ["local", "luna"]}, "not 'luna'"),
        ({"student_model": 3}, "not 3"),
        ({"student_model": ["local", "openai: gpt-6-luna"]}, "write 'openai:gpt-6-luna'"),
        ({"match": 3}, "a function of two values"),
    ],
)
def test_ways_of_learning_are_checked_at_decoration(keywords: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        tanuki.patch(**keywords)

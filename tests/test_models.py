"""The table of models: what it says, and what becomes of names that answer no longer."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, date, datetime
from typing import Any

import pytest

import tanuki_async as tanuki
from tanuki_async._cli import main
from tanuki_async._errors import SettingsError
from tanuki_async._models import ALIASES, DEFAULT_EMBEDDING, DEFAULT_TEACHERS, MODELS, lookup, retirement, split_name
from tanuki_async._records import Model
from tanuki_async._settings import Settings
from tanuki_async._teachers import Teachers
from tanuki_async.providers.openai import OpenAI, OpenAICompatible
from tanuki_async.providers.together import TogetherAI
from tanuki_async.testing import FakeClock, FakeProvider


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_every_row_is_whole(model: Model) -> None:
    assert model.as_of
    assert model.price_cached is None or model.price_input is None or model.price_cached < model.price_input
    if model.successor:
        successor = lookup(*split_name(model.successor))
        assert successor is not None
        assert successor.retires is None
    if model.retires:
        date.fromisoformat(model.retires)
        assert model.successor
    assert model.kind == "chat" or model.structured == "none"


def test_the_defaults_and_what_is_suggested_are_in_the_table_and_stay() -> None:
    for name in (*DEFAULT_TEACHERS, DEFAULT_EMBEDDING):
        found = lookup(*split_name(name))
        assert found is not None
        assert found.retires is None
        assert found.suggested
    assert {model.suggested for model in MODELS if model.provider == "openai"} >= {"teacher", "student", "embedding"}


@pytest.mark.parametrize("alias", [each for each in ALIASES if each not in ("ada-002", "aws_titan_embed_v1")])
def test_an_alias_of_a_retired_model_names_its_replacement(alias: str) -> None:
    with pytest.raises(SettingsError, match=r"is retired; use '\w+:\S+'") as caught:
        split_name(alias)
    replacement = str(caught.value).partition("use '")[2].partition("'")[0]
    split_name(replacement)


def test_an_alias_of_a_model_that_answers_stands_for_it() -> None:
    assert split_name("ada-002") == ("openai", "text-embedding-ada-002")
    assert split_name("aws_titan_embed_v1") == ("bedrock", "amazon.titan-embed-text-v1")


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("gpt-4-turbo", "openai:gpt-6.2-sol"),
        ("gpt-4.1-nano-2025-04-14", "openai:gpt-6-luna"),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "together:openai/gpt-oss-120b"),
        ("anthropic.claude-v2:1", "bedrock:us.anthropic.claude-sonnet-5-5"),
        ("gpt-6-luna", "did you mean 'openai:gpt-6-luna'"),
        ("us.anthropic.claude-sonnet-5-5", "did you mean 'bedrock:us.anthropic.claude-sonnet-5-5'"),
        ("nothing", "a model is written 'provider:name'"),
        ("openai: gpt-6-luna", "write 'openai:gpt-6-luna'"),
        (" openai:gpt-6-luna ", "write 'openai:gpt-6-luna'"),
    ],
)
def test_a_name_without_a_provider_gets_advice(name: str, use: str) -> None:
    with pytest.raises(SettingsError) as caught:
        split_name(name)
    assert use in str(caught.value)


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("amazon.nova-lite-v1:0", "bedrock:amazon.nova-lite-v1:0"),
        ("us.amazon.nova-lite-v1:0", "bedrock:us.amazon.nova-lite-v1:0"),
        ("arn:aws:bedrock:us-east-1:1:provisioned-model/x", "bedrock:arn:aws:bedrock:us-east-1:1:provisioned-model/x"),
        ("ft:gpt-4.1-mini-2025-04-14:acme::id", "openai:ft:gpt-4.1-mini-2025-04-14:acme::id"),
        ("OpenAI:gpt-6-luna", "openai"),
    ],
)
def test_a_name_with_colons_of_its_own_gets_advice_where_its_provider_is_missing(name: str, whole: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Teachers(Settings()).teacher(name)
    assert f"did you mean {whole!r}?" in str(caught.value)


def test_a_provider_of_ones_own_may_have_any_name() -> None:
    mine = OpenAICompatible("http://localhost:8000/v1", name="ft")
    assert str(Teachers(Settings(providers=(mine,))).teacher("ft:small").model) == "ft:small"


def test_a_provider_refuses_what_its_maker_retired() -> None:
    with pytest.raises(SettingsError, match="gpt-6-luna"):
        OpenAI("sk-x").model("gpt-3.5-turbo")
    with pytest.raises(SettingsError, match=r"gpt-6-luna.*2026-09-28"):
        OpenAI("sk-x").model("ft:gpt-3.5-turbo-1106:org::id")
    with pytest.raises(SettingsError, match="Qwen"):
        TogetherAI("x").model("openai/gpt-oss-20b")


def test_another_server_may_serve_what_openai_retired() -> None:
    assert OpenAI("sk-x", "http://localhost:1/v1").model("gpt-4").name == "gpt-4"


def test_the_state_of_one_day_is_what_the_model_is() -> None:
    dated = OpenAI("sk-x").model("gpt-4.1-mini-2025-04-14")
    assert (dated.name, dated.max_output, dated.retires) == ("gpt-4.1-mini-2025-04-14", 32_768, "2027-01-14")
    tuned = OpenAI("sk-x").model("ft:gpt-4.1-mini-2025-04-14:org::id")
    assert (tuned.schema_dialect, tuned.price_input, tuned.retires) == ("openai_strict_ft", 0.80, "2027-01-14")


def test_an_effort_that_a_model_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="'low', 'high', not 'none'"):
        Model(provider="x", name="m", efforts=("low", "high"), reasoning_effort="none")


ENDING = Model(provider="fake", name="m", retires="2026-03-01", successor="fake:n")


@pytest.mark.parametrize(
    ("today", "said"),
    [
        (date(2025, 12, 30), None),
        (date(2025, 12, 31), "fake:m retires on 2026-03-01, in 60 days; use 'fake:n'"),
        (date(2026, 2, 28), "fake:m retires on 2026-03-01, in 1 day; use 'fake:n'"),
        (date(2026, 3, 1), "2026-03-01 HAS PASSED, the day on which fake:m retires: it may fail at any time"),
    ],
)
def test_the_end_of_a_model_is_told_in_time(today: date, said: str | None) -> None:
    end = retirement(ENDING, today)
    assert end is None if said is None else said in str(end)


@tanuki.patch
async def number(text: str) -> int:
    """Return a number."""


@pytest.mark.parametrize("start", [datetime(2026, 2, 1, tzinfo=UTC), datetime(2027, 2, 1, tzinfo=UTC)])
async def test_a_model_near_its_end_is_warned_of_once_and_still_asked(
    start: datetime, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tanuki_async._teachers._warned", set())
    for _ in range(2):
        provider = FakeProvider("7", models={"m": ENDING})
        async with tanuki.Tanuki(
            storage="memory:", providers=[provider], teacher_models="fake:m", clock=FakeClock(start=start)
        ):
            assert await number("a") == 7
            assert await number("b") == 7
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(said) == 1
    assert "fake:m" in said[0]


async def test_a_model_for_embeddings_is_no_teacher() -> None:
    async with tanuki.Tanuki(storage="memory:", teacher_models="openai:text-embedding-3-small"):
        with pytest.raises(SettingsError, match="it cannot answer"):
            await number("a")


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["models", *arguments]) == 0
    return capsys.readouterr().out


def test_the_command_lists_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    printed = listed(capsys)
    assert all(str(model) in printed for model in MODELS)
    only = listed(capsys, "--provider", "together")
    assert "together:Qwen/Qwen3.5-9B" in only
    assert "openai:gpt" not in only


def test_the_command_prints_all_that_is_known_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, Any]] = json.loads(listed(capsys, "--json", "--provider", "openai"))
    luna = next(row for row in rows if row["name"] == "gpt-6-luna")
    assert luna["efforts"][0] == luna["reasoning_effort"] == "none"
    assert luna["sampling"] == luna["chat_tools"] == "without_effort"
    assert luna["attachments"] == ["document", "image"]
    assert not any(name.startswith("_") for name in luna)


def test_the_command_needs_no_extra(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tanuki_async._cli.models.find_spec", lambda _: None)
    monkeypatch.setitem(sys.modules, "rich", None)
    lines = listed(capsys).splitlines()
    assert lines[0].startswith("model  ")
    assert any(line.startswith("openai:gpt-6-luna") for line in lines)


def test_the_command_names_the_providers_it_knows(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--provider", "nobody"]) == 1
    assert "openai" in capsys.readouterr().err

"""Prices that the optional package knows and our table does not."""

from __future__ import annotations

import sys

import pytest

from tanuki_async._models import lookup
from tanuki_async._prices import filled
from tanuki_async._records import Model, Usage

LLAMA = Model(provider="together", name="meta-llama/Llama-3.3-70B-Instruct-Turbo")


def test_a_model_that_we_do_not_know_gets_its_price() -> None:
    pytest.importorskip("genai_prices")
    found = filled(LLAMA)
    assert found.price_input is not None
    assert found.price_output is not None
    assert 0.01 < found.price_input < 10
    assert (found.name, found.context_window) == (LLAMA.name, LLAMA.context_window)


def test_the_base_price_counts_not_the_one_of_long_prompts() -> None:
    pytest.importorskip("genai_prices")
    ours = lookup("openai", "gpt-4.1-mini")
    assert ours is not None
    found = filled(Model(provider="openai", name="gpt-4.1-mini"))
    assert (found.price_input, found.price_output) == (ours.price_input, ours.price_output)
    assert found.price_cached == pytest.approx(ours.price_cached)


def test_what_is_said_stands() -> None:
    mine = Model(provider="together", name=LLAMA.name, price_input=1.0, price_output=2.0)
    assert filled(mine) is mine


def test_what_nobody_knows_stays_unknown() -> None:
    unknown = Model(provider="together", name="no-such-model")
    assert filled(unknown) is unknown


def test_a_server_of_ones_own_loads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    own = Model(provider="loopback", name="gpt-4.1-mini")
    assert filled(own) is own


def test_without_the_package_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    assert filled(LLAMA) is LLAMA


@pytest.mark.parametrize(
    ("name", "above", "dearer_input", "dearer_output"),
    [
        ("openai:gpt-6-luna", 272_000, 2, 1.5),
        ("openai:gpt-6.2-sol", 272_000, 2, 1.5),
        ("anthropic:claude-haiku-5-5", 100_000, 5, 5),
        ("bedrock:anthropic.claude-haiku-5-5", 100_000, 5, 5),
        ("bedrock:openai.gpt-6-luna", 272_000, 2, 1.5),
    ],
)
def test_a_long_prompt_makes_the_whole_request_dearer(
    name: str, above: int, dearer_input: float, dearer_output: float
) -> None:
    provider, _, model_name = name.partition(":")
    model = lookup(provider, model_name)
    assert model is not None
    assert model.price_input is not None
    assert model.price_cached is not None
    assert model.price_output is not None
    base = (above * 0.5 * (model.price_input + model.price_cached) + 100 * model.price_output) / 1e6
    most = Usage(requests=1, input_tokens=above, cached_tokens=above // 2, output_tokens=100)
    assert model.cost(most) == pytest.approx(base)

    more = Usage(requests=1, input_tokens=above + 2, cached_tokens=above // 2 + 1, output_tokens=100)
    dear = (above * 0.5 + 1) * (model.price_input + model.price_cached) * dearer_input
    assert model.cost(more) == pytest.approx((dear + 100 * model.price_output * dearer_output) / 1e6)


def test_many_short_prompts_are_no_long_one() -> None:
    luna = lookup("openai", "gpt-6-luna")
    assert luna is not None
    one, many = Usage(requests=1, input_tokens=200_000), Usage(requests=10, input_tokens=2_000_000)
    alone = luna.cost(one)
    assert alone is not None
    assert luna.cost(many) == pytest.approx(10 * alone)


def test_the_table_is_without_surcharges_where_none_are_known() -> None:
    sonnet = lookup("anthropic", "claude-sonnet-5-5")
    assert sonnet is not None
    assert sonnet.cost(Usage(requests=1, input_tokens=900_000)) == pytest.approx(1.8)

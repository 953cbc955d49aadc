"""Prices that the optional package knows and our table does not."""

from __future__ import annotations

import sys

import pytest

from tanuki_async._models import lookup
from tanuki_async._prices import filled
from tanuki_async._records import Model

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

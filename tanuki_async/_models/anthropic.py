"""Anthropic's models on its own platform."""

from __future__ import annotations

from functools import partial

from tanuki_async._records import Model

AS_OF = "2026-11-22"

_chat = partial(
    Model,
    provider="anthropic",
    context_window=1_000_000,
    max_output=128_000,
    schema_dialect="anthropic",
    efforts=("low", "medium", "high", "xhigh", "max"),
    reasoning_effort="low",
    sampling="never",
    attachments=frozenset({"image", "document"}),
    as_of=AS_OF,
)
_old = partial(_chat, context_window=200_000, max_output=64_000, efforts=(), reasoning_effort=None, sampling="always")

MODELS: tuple[Model, ...] = (
    _chat(
        name="claude-haiku-5-5", price_input=0.10, price_cached=0.01, price_output=0.50, surcharge=(100_000, 5, 5),
        suggested="student",
    ),
    _chat(name="claude-sonnet-5-5", price_input=2, price_cached=0.10, price_output=10, suggested="teacher"),
    _chat(name="claude-opus-5-5", price_input=4, price_cached=0.20, price_output=20),
    _chat(name="claude-fable-5-1", price_input=10, price_cached=0.25, price_output=50),
    _old(name="claude-haiku-4-5", price_input=1, price_output=5),
    _old(name="claude-sonnet-4-5", retires="2026-11-30", successor="anthropic:claude-sonnet-5-5"),
)  # fmt: skip

RETIRED: dict[str, tuple[str | None, str]] = {}
"""What no longer answers: since when, where that is known, and what to use today."""

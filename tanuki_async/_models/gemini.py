"""Google's models, as its OpenAI-compatible endpoint serves them to a provider called "gemini"."""

from __future__ import annotations

from functools import partial

from tanuki_async._records import Model

AS_OF = "2026-11-22"

_chat = partial(
    Model,
    provider="gemini",
    context_window=1_048_576,
    max_output=65_536,
    attachments=frozenset({"image"}),
    as_of=AS_OF,
)

MODELS: tuple[Model, ...] = (
    _chat(name="gemini-3.1-pro-preview", price_input=2, price_cached=0.20, price_output=12, suggested="teacher"),
    _chat(name="gemini-3.8-flash", price_input=0.75, price_cached=0.075, price_output=3.75),
    _chat(name="gemini-3.5-flash-lite", price_input=0.30, price_cached=0.03, price_output=2.50, suggested="student"),
    Model(
        provider="gemini", name="gemini-embedding-2", kind="embedding", context_window=8_192, structured="none",
        price_input=0.20, price_output=0.0, suggested="embedding", as_of=AS_OF,
    ),
)  # fmt: skip

RETIRED: dict[str, tuple[str | None, str]] = {}
"""What no longer answers: since when, where that is known, and what to use today."""

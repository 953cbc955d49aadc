"""OpenAI's models, from its model and deprecation pages."""

from __future__ import annotations

from functools import partial

from tanuki_async._records import Attached, Model

AS_OF = "2026-11-22"

_SEEN: frozenset[Attached] = frozenset({"image", "document"})
_FULL = ("low", "medium", "high", "xhigh", "max")
_WITH_NONE = ("none", *_FULL)

_chat = partial(
    Model,
    provider="openai",
    instruction_role="developer",
    token_field="max_completion_tokens",
    attachments=_SEEN,
    as_of=AS_OF,
)
_thinker = partial(  # always reasons, so it takes nothing of a sampler
    _chat,
    context_window=922_000,
    max_output=128_000,
    efforts=_FULL,
    reasoning_effort="low",
    sampling="never",
    chat_tools="never",
    surcharge=(272_000, 2, 1.5),
)
_chooser = partial(  # reasons if asked to
    _thinker, efforts=_WITH_NONE, reasoning_effort="none", sampling="without_effort", chat_tools="without_effort"
)
_old = partial(
    _chat, context_window=272_000, max_output=128_000, efforts=("minimal", "low", "medium", "high"),
    reasoning_effort="low", sampling="never", retires="2026-12-11", successor="openai:gpt-6-luna",
)  # fmt: skip
_tunable = partial(
    _chat, context_window=1_047_576, max_output=32_768, retires="2027-01-14", successor="openai:gpt-6-luna"
)
_embedder = partial(
    Model, provider="openai", kind="embedding", context_window=8_191, structured="none", price_output=0.0, as_of=AS_OF
)

MODELS: tuple[Model, ...] = (
    _thinker(name="gpt-6.2-astra", price_input=8, price_output=40, efforts=("low", "medium", "high", "xhigh")),
    _thinker(
        name="gpt-6.2-sol", price_input=2, price_cached=0.10, price_output=10,
        efforts=("low", "medium", "high", "xhigh"), suggested="teacher",
    ),
    _thinker(name="gpt-6-astra", price_input=10, price_cached=1, price_output=50),
    _thinker(name="gpt-6.1-sol", price_input=2, price_cached=0.10, price_output=10, suggested="teacher"),
    _chooser(name="gpt-6.1-terra", price_input=1, price_cached=0.05, price_output=5, suggested="teacher"),
    _chooser(name="gpt-6-sol", price_input=2, price_cached=0.20, price_output=10),
    _chooser(name="gpt-6-luna", price_input=0.10, price_cached=0.01, price_output=0.50, suggested="student"),
    _old(name="gpt-5", successor="openai:gpt-6.1-terra"),
    _old(name="gpt-5-mini", price_input=0.25, price_cached=0.025, price_output=2),
    _old(name="gpt-5-nano", price_input=0.05, price_cached=0.005, price_output=0.40),
    _chat(
        name="o3", context_window=200_000, max_output=100_000, efforts=("low", "medium", "high"),
        reasoning_effort="low", sampling="never", retires="2026-12-11", successor="openai:gpt-6.1-terra",
    ),
    _chat(
        name="gpt-5.1", context_window=272_000, max_output=128_000, sampling="without_effort",
        retires="2027-04-01", successor="openai:gpt-6.1-terra",
    ),
    _chat(
        name="gpt-5.4-nano", context_window=272_000, max_output=128_000, sampling="without_effort",
        retires="2027-04-01", successor="openai:gpt-6-luna",
    ),
    _tunable(name="gpt-4.1", price_input=2, price_cached=0.50, price_output=8, successor="openai:gpt-6.1-terra"),
    _tunable(name="gpt-4.1-mini", price_input=0.40, price_cached=0.10, price_output=1.60),
    _tunable(name="gpt-4o", context_window=128_000, max_output=16_384, successor="openai:gpt-6.1-terra"),
    _tunable(
        name="gpt-4o-mini", price_input=0.15, price_cached=0.075, price_output=0.60,
        context_window=128_000, max_output=16_384,
    ),
    _embedder(name="text-embedding-3-small", price_input=0.02, dimensions=1_536, suggested="embedding"),
    _embedder(name="text-embedding-3-large", price_input=0.13, dimensions=3_072),
    _embedder(name="text-embedding-ada-002", price_input=0.10, dimensions=1_536),
)  # fmt: skip

TUNED: dict[str, tuple[float, float, float]] = {
    "gpt-4.1": (3, 0.75, 12),
    "gpt-4.1-mini": (0.80, 0.20, 3.20),
    "gpt-4o-mini": (0.30, 0.15, 1.20),
}
"""What is still trained, for whom it is, and what a trained one costs: input, cached input, output."""

RETIRED: dict[str, tuple[str, str]] = {
    **dict.fromkeys(
        ("gpt-4", "gpt-4-turbo", "gpt-4-1106-preview", "gpt-4o-2024-05-13", "o1", "o3-mini", "o4-mini"),
        ("2026-10-23", "openai:gpt-6.2-sol"),
    ),
    **dict.fromkeys(("gpt-4-0125-preview", "gpt-4-turbo-preview", "gpt-4-0314"), ("2026-03-26", "openai:gpt-6.2-sol")),
    "gpt-4-32k": ("2025-06-06", "openai:gpt-6.2-sol"),
    "gpt-4.1-nano": ("2026-10-23", "openai:gpt-6-luna"),
    "gpt-3.5-turbo": ("2026-10-23", "openai:gpt-6-luna"),
    "gpt-3.5-turbo-1106": ("2026-09-28", "openai:gpt-6-luna"),
}
"""What no longer answers: since when, and what to use today."""

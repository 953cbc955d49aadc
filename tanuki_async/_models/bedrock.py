"""What Amazon Bedrock serves: ids without the prefix of an inference profile.

Prices are those of `global.` and of a single region.
"""

from __future__ import annotations

import re
from functools import partial

from tanuki_async._records import Model

AS_OF = "2026-11-22"
PROFILE = re.compile(r"^(?:us|us-gov|eu|apac|jp|au|ca|global)\.")
"""What an inference profile puts before the id of its model."""

_model = partial(Model, provider="bedrock", as_of=AS_OF)
_claude = partial(
    _model, context_window=1_000_000, max_output=128_000, schema_dialect="anthropic",
    attachments=frozenset({"image", "document"}),
)  # fmt: skip
_nova = partial(
    _model, context_window=300_000, max_output=10_000, structured="tool",
    attachments=frozenset({"image", "document"}),
)  # fmt: skip
_llama = partial(
    _model, context_window=128_000, max_output=4_096, structured="tool",
    retires="2027-03-30", successor="bedrock:amazon.nova-lite-v1:0",
)  # fmt: skip
_embedder = partial(_model, kind="embedding", context_window=8_192, structured="none", price_output=0.0)

MODELS: tuple[Model, ...] = (
    _claude(
        name="anthropic.claude-haiku-5-5", price_input=0.10, price_cached=0.01, price_output=0.50,
        surcharge=(100_000, 5, 5),
    ),
    _claude(
        name="anthropic.claude-sonnet-5-5", price_input=2, price_cached=0.10, price_output=10,
        reasoning_effort="low", suggested="teacher",
    ),
    _claude(
        name="anthropic.claude-opus-5-5", price_input=4, price_cached=0.20, price_output=20, reasoning_effort="low"
    ),
    _claude(
        name="anthropic.claude-fable-5-1", price_input=10, price_cached=0.25, price_output=50, reasoning_effort="low"
    ),
    _nova(
        name="amazon.nova-micro-v1:0", context_window=128_000, attachments=frozenset(),
        price_input=0.035, price_cached=0.009, price_output=0.14, suggested="student",
    ),
    _nova(name="amazon.nova-lite-v1:0", price_input=0.06, price_cached=0.015, price_output=0.24),
    _nova(name="amazon.nova-pro-v1:0", price_input=0.80, price_cached=0.20, price_output=3.20),
    _nova(
        name="amazon.nova-2-lite-v1:0", context_window=1_000_000, max_output=64_000,
        price_input=0.30, price_cached=0.075, price_output=2.50,
    ),
    _nova(name="amazon.nova-premier-v1:0", context_window=1_000_000, price_input=2.50, price_output=12.50),
    _llama(name="meta.llama3-3-70b-instruct-v1:0", price_input=0.72, price_output=0.72),
    _llama(name="meta.llama4-maverick-17b-instruct-v1:0", price_input=0.24, price_output=0.97),
    _llama(name="meta.llama4-scout-17b-instruct-v1:0", price_input=0.17, price_output=0.66),
    _model(name="openai.gpt-oss-120b-1:0", context_window=128_000, price_input=0.15, price_output=0.60),
    _model(
        name="openai.gpt-6-luna", context_window=922_000, max_output=128_000,
        price_input=0.10, price_cached=0.01, price_output=0.50, surcharge=(272_000, 2, 1.5),
    ),
    _model(
        name="openai.gpt-6.1-sol", context_window=922_000, max_output=128_000,
        price_input=2, price_cached=0.10, price_output=10, surcharge=(272_000, 2, 1.5),
    ),
    _embedder(name="amazon.titan-embed-text-v1", price_input=0.10),
    _embedder(name="amazon.titan-embed-text-v2:0", price_input=0.02, suggested="embedding"),
    _model(
        name="amazon.titan-text-express-v1", context_window=8_000, max_output=8_000, structured="none",
        wire_format="titan", price_input=0.20, price_output=0.60,
    ),
)  # fmt: skip

RETIRED: dict[str, tuple[str | None, str]] = {
    "anthropic.claude-v2:1": (None, "bedrock:us.anthropic.claude-sonnet-5-5"),
    "meta.llama2-70b-chat-v1": (None, "bedrock:amazon.nova-pro-v1:0"),
    "meta.llama2-13b-chat-v1": (None, "bedrock:amazon.nova-lite-v1:0"),
}
"""What no longer answers: since when, where that is known, and what to use today."""

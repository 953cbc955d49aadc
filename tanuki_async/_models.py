"""The table of models: what each can do, what it costs, and what became of the names of old.

Facts and prices (US dollars per million tokens) are from the providers' model pages, read on the date in AS_OF.
A model that is not here works all the same: its provider assumes little and learns from the server's answers.
"""

from __future__ import annotations

from dataclasses import replace

from tanuki_async._errors import SettingsError
from tanuki_async._records import Attached, Model, Structured

AS_OF = "2026-11-22"

DEFAULT_TEACHERS = ("openai:gpt-6.2-sol", "openai:gpt-6.1-sol")
DEFAULT_EMBEDDING = "openai:text-embedding-3-small"

ANYTHING: frozenset[Attached] = frozenset({"image", "document"})
"""What models with vision take; what is assumed of an unknown one until it says no."""


def _reasoner(
    name: str, price_input: float, price_cached: float | None, price_output: float, *, effort: str | None = None
) -> Model:
    return Model(
        provider="openai",
        name=name,
        context_window=922_000,
        max_output=128_000,
        instruction_role="developer",
        token_field="max_completion_tokens",
        reasoning_effort=effort,
        attachments=ANYTHING,
        price_input=price_input,
        price_cached=price_cached,
        price_output=price_output,
        as_of=AS_OF,
    )


def _tunable(
    name: str, window: int, max_output: int, price_input: float, price_cached: float, price_output: float
) -> Model:
    return Model(
        provider="openai",
        name=name,
        context_window=window,
        max_output=max_output,
        instruction_role="developer",
        token_field="max_completion_tokens",
        attachments=ANYTHING,
        price_input=price_input,
        price_cached=price_cached,
        price_output=price_output,
        retires="2027-01-14",
        as_of=AS_OF,
    )


def _embedder(name: str, price: float) -> Model:
    return Model(
        provider="openai",
        name=name,
        context_window=8_191,
        structured="none",
        price_input=price,
        price_output=0.0,
        as_of=AS_OF,
    )


def _claude(
    name: str,
    price_input: float | None = None,
    price_cached: float | None = None,
    price_output: float | None = None,
    *,
    window: int = 1_000_000,
    max_output: int = 128_000,
    effort: str | None = "low",
    retires: str | None = None,
) -> Model:
    return Model(
        provider="anthropic",
        name=name,
        context_window=window,
        max_output=max_output,
        reasoning_effort=effort,
        attachments=ANYTHING,
        price_input=price_input,
        price_cached=price_cached,
        price_output=price_output,
        retires=retires,
        as_of=AS_OF,
    )


_CLAUDE = (
    _claude("claude-haiku-5-5", 0.10, 0.01, 0.50),  # prompts above 100,000 tokens cost five times as much
    _claude("claude-sonnet-5-5", 2, 0.10, 10),
    _claude("claude-opus-5-5", 4, 0.20, 20),
    _claude("claude-fable-5-1", 10, 0.25, 50),
    _claude("claude-haiku-4-5", 1, None, 5, window=200_000, max_output=64_000, effort=None),
    _claude("claude-sonnet-4-5", window=200_000, max_output=64_000, effort=None, retires="2026-11-30"),
)


def _on_bedrock(
    name: str,
    window: int,
    max_output: int | None,
    price_input: float,
    price_cached: float | None,
    price_output: float,
    *,
    sees: bool = True,
    structured: Structured = "json_schema",
    effort: str | None = None,
    retires: str | None = None,
) -> Model:
    return Model(
        provider="bedrock",
        name=name,
        context_window=window,
        max_output=max_output,
        structured=structured,
        reasoning_effort=effort,
        attachments=ANYTHING if sees else frozenset(),
        price_input=price_input,
        price_cached=price_cached,
        price_output=price_output,
        retires=retires,
        as_of=AS_OF,
    )


_LLAMA_ENDS = "2027-03-30"
_BEDROCK = (  # ids without the prefix of an inference profile; prices are those of `global.` and of a single region
    _on_bedrock("anthropic.claude-haiku-5-5", 1_000_000, 128_000, 0.10, 0.01, 0.50),
    _on_bedrock("anthropic.claude-sonnet-5-5", 1_000_000, 128_000, 2, 0.10, 10, effort="low"),
    _on_bedrock("anthropic.claude-opus-5-5", 1_000_000, 128_000, 4, 0.20, 20, effort="low"),
    _on_bedrock("anthropic.claude-fable-5-1", 1_000_000, 128_000, 10, 0.25, 50, effort="low"),
    _on_bedrock("amazon.nova-micro-v1:0", 128_000, 10_000, 0.035, 0.009, 0.14, sees=False, structured="tool"),
    _on_bedrock("amazon.nova-lite-v1:0", 300_000, 10_000, 0.06, 0.015, 0.24, structured="tool"),
    _on_bedrock("amazon.nova-pro-v1:0", 300_000, 10_000, 0.80, 0.20, 3.20, structured="tool"),
    _on_bedrock("amazon.nova-2-lite-v1:0", 1_000_000, 64_000, 0.30, 0.075, 2.50, structured="tool"),
    _on_bedrock("amazon.nova-premier-v1:0", 1_000_000, 10_000, 2.50, None, 12.50, structured="tool"),
    _on_bedrock(
        "meta.llama3-3-70b-instruct-v1:0", 128_000, 4_096, 0.72, None, 0.72, sees=False, structured="tool",
        retires=_LLAMA_ENDS,
    ),
    _on_bedrock(
        "meta.llama4-maverick-17b-instruct-v1:0", 128_000, 4_096, 0.24, None, 0.97, sees=False, structured="tool",
        retires=_LLAMA_ENDS,
    ),
    _on_bedrock(
        "meta.llama4-scout-17b-instruct-v1:0", 128_000, 4_096, 0.17, None, 0.66, sees=False, structured="tool",
        retires=_LLAMA_ENDS,
    ),
    _on_bedrock("openai.gpt-oss-120b-1:0", 128_000, None, 0.15, None, 0.60, sees=False),
    _on_bedrock("openai.gpt-6-luna", 922_000, 128_000, 0.10, 0.01, 0.50, sees=False),
    _on_bedrock("openai.gpt-6.1-sol", 922_000, 128_000, 2, 0.10, 10, sees=False),
    _on_bedrock("amazon.titan-embed-text-v1", 8_192, None, 0.10, None, 0, sees=False, structured="none"),
    _on_bedrock("amazon.titan-embed-text-v2:0", 8_192, None, 0.02, None, 0, sees=False, structured="none"),
    replace(
        _on_bedrock("amazon.titan-text-express-v1", 8_000, 8_000, 0.20, None, 0.60, sees=False, structured="none"),
        wire_format="titan",
    ),
)  # fmt: skip

_TABLE: dict[tuple[str, str], Model] = {
    (model.provider, model.name): model
    for model in (
        _reasoner("gpt-6.2-astra", 8, None, 40, effort="low"),
        _reasoner("gpt-6.2-sol", 2, 0.10, 10, effort="low"),
        _reasoner("gpt-6-astra", 10, 1, 50, effort="low"),
        _reasoner("gpt-6.1-sol", 2, 0.10, 10, effort="low"),
        _reasoner("gpt-6.1-terra", 1, 0.05, 5, effort="none"),
        _reasoner("gpt-6-sol", 2, 0.20, 10, effort="none"),
        _reasoner("gpt-6-luna", 0.10, 0.01, 0.50, effort="none"),
        _tunable("gpt-4.1", 1_047_576, 32_768, 2, 0.50, 8),
        _tunable("gpt-4.1-mini", 1_047_576, 32_768, 0.40, 0.10, 1.60),
        _tunable("gpt-4o-mini", 128_000, 16_384, 0.15, 0.075, 0.60),
        _embedder("text-embedding-3-small", 0.02),
        _embedder("text-embedding-3-large", 0.13),
        _embedder("text-embedding-ada-002", 0.10),
        *_CLAUDE,
        *_BEDROCK,
    )
}

_RETIRED = {
    "gpt-4": "gpt-6.2-sol",
    "gpt-4-1106-preview": "gpt-6.2-sol",
    "gpt-4-turbo": "gpt-6.2-sol",
    "gpt-4-turbo-preview": "gpt-6.2-sol",
    "gpt-4-0125-preview": "gpt-6.2-sol",
    "gpt-4-32k": "gpt-6.2-sol",
    "gpt-4.1-nano": "gpt-6-luna",
    "gpt-3.5-turbo": "gpt-6-luna",
    "gpt-3.5-turbo-1106": "gpt-6-luna",
}
"""OpenAI models that no longer answer, and what to use today."""


def lookup(provider: str, name: str) -> Model | None:
    """Find a model in the table; None where it is not there. SettingsError for one that is retired."""
    if provider == "openai" and (successor := _RETIRED.get(name)):
        raise SettingsError(f"the model {name!r} is retired; use 'openai:{successor}'")
    return _TABLE.get((provider, name))


def takers(kind: Attached) -> list[str]:
    """Name the models of the table that take such attachments, the defaults first."""
    names = [str(model) for model in _TABLE.values() if kind in model.attachments]
    return sorted(names, key=lambda name: name not in DEFAULT_TEACHERS)


def split_name(name: str) -> tuple[str, str]:
    """Split `"provider:model"`. SettingsError for anything else, naming the replacement of an old alias."""
    provider, colon, model = name.partition(":")
    if colon and provider and model:
        return provider, model
    if successor := _RETIRED.get(name):
        raise SettingsError(f"the model {name!r} is retired; use 'openai:{successor}'")
    hint = f"; did you mean 'openai:{name}'?" if ("openai", name) in _TABLE else ""
    raise SettingsError(f"a model is written 'provider:name', such as {DEFAULT_TEACHERS[0]!r}; got {name!r}{hint}")

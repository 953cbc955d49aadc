"""What Together AI serves without an endpoint of one's own. Such models are retired within months."""

from __future__ import annotations

from functools import partial

from tanuki_async._records import Model

AS_OF = "2026-11-22"

_chat = partial(Model, provider="together", as_of=AS_OF)

MODELS: tuple[Model, ...] = (
    _chat(
        name="Qwen/Qwen3.5-9B", context_window=262_144, price_input=0.17, price_output=0.25, suggested="student",
    ),
    _chat(name="openai/gpt-oss-120b", context_window=131_072, price_input=0.15, price_output=0.60),
    _chat(
        name="zai-org/GLM-5.3-Flash", context_window=1_000_000,
        price_input=0.15, price_cached=0.03, price_output=0.50,
    ),
    _chat(
        name="zai-org/GLM-5.3", context_window=1_000_000,
        price_input=1.40, price_cached=0.26, price_output=4.40, suggested="teacher",
    ),
    _chat(
        name="deepseek-ai/DeepSeek-V4.1-Flash", context_window=1_000_000,
        price_input=0.30, price_cached=0.006, price_output=1.20,
    ),
    _chat(
        name="deepseek-ai/DeepSeek-V4-Pro-0813", context_window=1_000_000,
        price_input=1.32, price_cached=0.13, price_output=3.96, suggested="teacher",
    ),
    _chat(name="Qwen/Qwen3.8-Flash", context_window=1_000_000, price_input=0.15, price_output=0.47),
    _chat(
        name="meta-models/Muse-Spark-Open-816B-A42B", context_window=1_000_000,
        price_input=1.25, price_cached=0.15, price_output=4.25,
    ),
    _chat(
        name="moonshotai/Kimi-K3", context_window=1_000_000,
        price_input=3, price_cached=0.30, price_output=15,
    ),
    Model(
        provider="together", name="intfloat/multilingual-e5-large-instruct", kind="embedding", context_window=512,
        structured="none", dimensions=1_024, suggested="embedding", as_of=AS_OF,
    ),
)  # fmt: skip

_SMALL, _LARGE = "together:Qwen/Qwen3.5-9B", "together:openai/gpt-oss-120b"

RETIRED: dict[str, tuple[str | None, str]] = {
    "meta-llama/Llama-3.3-70B-Instruct-Turbo": ("2026-10-22", _LARGE),
    "openai/gpt-oss-20b": ("2026-09-15", _SMALL),
    "mistralai/Mixtral-8x7B-Instruct-v0.1": ("2026-04-16", _LARGE),
    "meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo": ("2026-03-06", _SMALL),
    "NousResearch/Nous-Hermes-2-Mixtral-8x7B-DPO": (None, _LARGE),
    "zero-one-ai/Yi-34B-Chat": (None, _LARGE),
    "mistralai/Mistral-7B-Instruct-v0.2": (None, _SMALL),
    "openchat/openchat-3.5-1210": (None, _SMALL),
    "teknium/OpenHermes-2p5-Mistral-7B": (None, _SMALL),
    "togethercomputer/llama-2-13b-chat": (None, _SMALL),
}
"""What no longer answers: since when, where that is known, and what to use today."""

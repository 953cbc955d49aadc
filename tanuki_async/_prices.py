"""Prices of models that our own table does not know, from the package genai-prices where it is installed."""

from __future__ import annotations

import dataclasses
import importlib
import logging
from typing import Any

from tanuki_async._records import Model

logger = logging.getLogger("tanuki_async")

PROVIDERS = frozenset({
    "anthropic", "aws", "azure", "cerebras", "cohere", "deepseek", "fireworks", "google", "groq", "mistral", "novita",
    "openai", "openrouter", "perplexity", "together", "x-ai",
})  # fmt: skip
"""What the package calls the providers that it knows; a provider of ours is one of them if it has the same name."""
MANY = 1_000
"""Tokens to ask the price of: few enough for no model's surcharge on long prompts."""


def filled(model: Model) -> Model:
    """Return the model with the prices of the package's data, where it has none of its own and is known there.

    Loads the package at the first such model, which takes about 0.2 s. Nothing is fetched.
    """
    if model.price_input is not None or model.provider not in PROVIDERS:
        return model
    try:
        package: Any = importlib.import_module("genai_prices")
    except ImportError:
        return model

    def price(**tokens: int) -> Any:
        return package.calc_price(package.Usage(**tokens), model_ref=model.name, provider_id=model.provider)

    try:
        found, read_again = (
            price(input_tokens=MANY, output_tokens=MANY),
            price(input_tokens=MANY, cache_read_tokens=MANY),
        )
    except Exception as error:  # noqa: BLE001  # another's package: whatever it raises, the price stays unknown
        logger.debug("no price of %s: %s", model, error)
        return model
    return dataclasses.replace(
        model,
        price_input=_per_million(found.input_price),
        price_cached=_per_million(read_again.input_price),
        price_output=_per_million(found.output_price),
    )


def _per_million(price: Any) -> float:
    return float(price) * 1e6 / MANY

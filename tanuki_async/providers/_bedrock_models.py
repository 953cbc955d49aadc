"""What a model's id on Bedrock says: behind an inference profile, a version or an ARN stands a foundation model."""

from __future__ import annotations

import re
from dataclasses import replace

from tanuki_async._models import ANYTHING, lookup
from tanuki_async._models.bedrock import PROFILE
from tanuki_async._records import Model

_ARN = re.compile(r"^arn:[^:]*:bedrock:[^:]*:[^:]*:(?P<kind>[a-z-]+)/(?P<id>.+)$")
_TAIL = re.compile(r":[0-9a-z]+$")
_THINKS = re.compile(r"^anthropic\.claude-[a-z]+-5-[1-9](?![0-9])")
_DEARER = re.compile(r"^(?:us|eu|apac|jp|au)\.(?:anthropic\.claude-[a-z]+-5-|openai\.gpt-)")
_DEARNESS = 1.1
"""A profile that keeps data in one part of the world costs a tenth more than `global.`, for the newest models."""


def foundation(name: str) -> str:
    """Return the id of the foundation model behind `name`, as far as `name` says; else what is left of it."""
    if found := _ARN.match(name):
        kind, name = found["kind"], found["id"]
        if kind == "custom-model":
            name = name.rpartition("/")[0]
        elif kind not in ("foundation-model", "inference-profile"):
            return ""  # a deployment, provisioned throughput, an application's profile: only their account knows
    return PROFILE.sub("", name)


def describe(name: str) -> Model:
    """Describe a model by its id: as the table does for what stands behind it, else as its family commonly is."""
    base = foundation(name)
    known = lookup("bedrock", base) or lookup("bedrock", _TAIL.sub("", base))
    if known is None:
        return _family(name, base)
    known = replace(known, name=name)
    if "custom-model/" in name:  # a tuned one has prices of its own
        return replace(known, price_input=None, price_cached=None, price_output=None)
    return _dearer(known) if _DEARER.match(name) else known


def takes_no_sampling(name: str) -> bool:
    """Tell whether a model has neither temperature nor top_p: Claude from 5.1 on."""
    return _THINKS.match(foundation(name)) is not None


def _dearer(model: Model) -> Model:
    prices = [
        None if price is None else round(price * _DEARNESS, 6)
        for price in (model.price_input, model.price_cached, model.price_output)
    ]
    return replace(model, price_input=prices[0], price_cached=prices[1], price_output=prices[2])


def _family(name: str, base: str) -> Model:
    model = Model(provider="bedrock", name=name)
    if base.startswith("anthropic."):
        return replace(model, context_window=200_000, attachments=ANYTHING)
    if base.startswith(("amazon.nova", "meta.llama")):
        return replace(model, structured="tool")
    if base.startswith("amazon.titan-text"):
        return replace(model, structured="none", context_window=8_000, wire_format="titan")
    if "embed" in base:
        return replace(model, structured="none", context_window=8_192)
    return model

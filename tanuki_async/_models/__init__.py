"""The table of models: what each can do, what it costs, and what became of the names of old.

A file per provider. Facts and prices (US dollars per million tokens) are from the providers' model pages, read on the
date in `as_of`. A model that is not here works all the same: its provider assumes little and learns from the answers.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import date

from tanuki_async._errors import SettingsError
from tanuki_async._models import anthropic, bedrock, gemini, openai, together
from tanuki_async._models.aliases import ALIASES
from tanuki_async._records import Attached, Model

__all__ = [
    "ALIASES",
    "ANYTHING",
    "DEFAULT_EMBEDDING",
    "DEFAULT_TEACHERS",
    "MODELS",
    "is_tunable",
    "lookup",
    "owner",
    "refuse_spaces",
    "retirement",
    "sibling",
    "split_name",
    "takers",
    "tuned_prices",
]

DEFAULT_TEACHERS = ("openai:gpt-6.2-sol", "openai:gpt-6.1-sol")
DEFAULT_EMBEDDING = "openai:text-embedding-3-small"

ANYTHING: frozenset[Attached] = frozenset({"image", "document"})
"""What is assumed that an unknown model takes, until it says no."""

SOON = 60
"""Days before a model's end from which on its use is warned of."""

_PROVIDERS = {"openai": openai, "together": together, "anthropic": anthropic, "bedrock": bedrock, "gemini": gemini}
MODELS: tuple[Model, ...] = tuple(model for provider in _PROVIDERS.values() for model in provider.MODELS)
_DATED = re.compile(r"-20\d\d-\d\d-\d\d$")
_TABLE: dict[tuple[str, str], Model] = {(model.provider, model.name): model for model in MODELS}


def lookup(provider: str, name: str, *, retired: bool = False) -> Model | None:
    """Find a model in the table; None where it is not there. SettingsError for one that is gone, unless `retired`."""
    if not retired and (end := _end(provider, name)):
        raise SettingsError(end)
    if found := _TABLE.get((provider, name)):
        return found
    undated = _DATED.sub("", name)  # one day's state of a model, such as gpt-4.1-mini-2025-04-14
    if undated != name and (base := _TABLE.get((provider, undated))):
        return replace(base, name=name, suggested=None)
    return None


def sibling(teacher: Model) -> str | None:
    """Return the cheap model of the teacher's provider, as `provider:model`; None where the teacher is as cheap."""
    found = [model for model in MODELS if model.provider == teacher.provider and model.suggested == "student"]
    cheap = min(found, key=lambda model: model.price_input or 0.0, default=None)
    if cheap is None or cheap.name == teacher.name:
        return None
    if teacher.price_input is not None and cheap.price_input is not None and teacher.price_input <= cheap.price_input:
        return None
    return str(cheap)


def is_tunable(name: str) -> bool:
    """Tell whether OpenAI still trains a model, for whom it does."""
    return _DATED.sub("", name) in openai.TUNED


def tuned_prices(base: str) -> tuple[float, float, float] | tuple[None, None, None]:
    """Return what a model costs that OpenAI trained: input, cached input, output."""
    return openai.TUNED.get(_DATED.sub("", base), (None, None, None))


def takers(kind: Attached) -> list[str]:
    """Name the models of the table that take such attachments, the defaults first."""
    names = [str(model) for model in MODELS if kind in model.attachments]
    return sorted(names, key=lambda name: name not in DEFAULT_TEACHERS)


def split_name(name: str) -> tuple[str, str]:
    """Split `"provider:model"`, or what an alias stands for. SettingsError for anything else, and for what is gone."""
    if named := ALIASES.get(name):
        provider, _, model = named.partition(":")
        if end := _end(provider, model):
            raise SettingsError(end if name == model else f"{name!r} of Tanuki.py was {named!r}: {end}")
        return provider, model
    provider, colon, model = name.partition(":")
    if colon and provider and model:
        refuse_spaces(name)
        return provider, model
    end = next(filter(None, (_end(each, name) for each in _PROVIDERS)), None)
    if end:
        raise SettingsError(end)
    hint = f"; did you mean '{found}:{name}'?" if (found := owner(name)) else ""
    raise SettingsError(f"a model is written 'provider:name', such as {DEFAULT_TEACHERS[0]!r}; got {name!r}{hint}")


def refuse_spaces(name: str) -> None:
    """Raise SettingsError for spaces around the provider's or the model's name: they are part of neither."""
    tidy = ":".join(part.strip() for part in name.split(":", 1))
    if tidy != name:
        raise SettingsError(f"a model is written without spaces around its names: write {tidy!r}, not {name!r}")


def owner(name: str) -> str | None:
    """Name the provider whose models are written like this, colons and all; None where that is not clear."""
    if name.startswith(("ft:", "arn:")):
        return "openai" if name.startswith("ft:") else "bedrock"
    found = next((each for each in _PROVIDERS if (each, name) in _TABLE), None)
    return found or ("bedrock" if ("bedrock", bedrock.PROFILE.sub("", name)) in _TABLE else None)


def retirement(model: Model, today: date) -> str | None:
    """Say that a model answers no longer than until soon; None while there is time."""
    if model.retires is None:
        return None
    days = (date.fromisoformat(model.retires) - today).days
    use = f"; use {model.successor!r}" if model.successor else ""
    if days > SOON:
        return None
    if days > 0:
        return f"{model} retires on {model.retires}, in {days} day{'s' if days > 1 else ''}{use}"
    return f"{model.retires} HAS PASSED, the day on which {model} retires: it may fail at any time{use}"


def _end(provider: str, name: str) -> str | None:
    """Say since when a model is gone, and what to use today."""
    known = _PROVIDERS.get(provider)
    found = (known.RETIRED.get(name) or known.RETIRED.get(_DATED.sub("", name))) if known else None
    if found is None:
        return None
    since, successor = found
    return f"the model {name!r} is retired; use {successor!r}{f' (it ended on {since})' if since else ''}"

"""From a model's name to who answers: which provider speaks for it."""

from __future__ import annotations

import importlib
import logging
from datetime import date
from typing import Any

from tanuki_async._clock import SYSTEM_CLOCK, Clock
from tanuki_async._errors import SettingsError
from tanuki_async._models import owner, retirement, split_name
from tanuki_async._prices import filled
from tanuki_async._records import Model
from tanuki_async._route import Teacher
from tanuki_async._settings import Options, Settings, nearest
from tanuki_async.abc import Provider
from tanuki_async.providers._servers import SERVERS

logger = logging.getLogger("tanuki_async")

BUILT_IN = {
    "openai": ("tanuki_async.providers.openai", "OpenAI"),
    "together": ("tanuki_async.providers.together", "TogetherAI"),
    "anyscale": ("tanuki_async.providers.anyscale", "Anyscale"),
    "bedrock": ("tanuki_async.providers.bedrock", "Bedrock"),
    "anthropic": ("tanuki_async.providers.anthropic", "Anthropic"),
}
"""Providers that are made from the environment when a model names them; each module is imported only then."""


def _make(name: str) -> Provider:
    module, kind = BUILT_IN.get(name, ("tanuki_async.providers.openai", "OpenAICompatible"))
    maker: Any = getattr(importlib.import_module(module), kind)
    made: Provider = maker() if name in BUILT_IN else maker.known(name)
    return made


_warned: set[str] = set()
"""Models of whose end this process was told."""


class Teachers:
    """The providers of one Tanuki, and the models that they answer with."""

    def __init__(self, settings: Settings, clock: Clock = SYSTEM_CLOCK) -> None:
        self._settings, self._clock = settings, clock
        self._providers: dict[str, Provider] = {}
        for provider in settings.providers:
            if self._providers.setdefault(provider.name, provider) is not provider:
                raise SettingsError(f"two providers are called {provider.name!r}; give one of them another `name=`")
        known = [*BUILT_IN, *SERVERS, *self._providers]
        for name in settings.limits:
            if name not in known:
                raise SettingsError(f"limits for {name!r}, but no provider is called that{nearest(name, known)}")

    def of(self, options: Options, *, embedding: bool) -> tuple[Teacher, ...]:
        """Return who may answer a function, in order of preference."""
        if options.teacher_models is not None:
            chosen = options.teacher_models
        else:
            chosen = (self._settings.embedding_model,) if embedding else self._settings.teacher_models
        teachers = tuple(self.teacher(each) for each in chosen)
        for model in (teacher.model for teacher in teachers):
            if model.kind == "embedding" and not embedding:
                raise SettingsError(f"{model} makes embeddings; it cannot answer. Name a chat model in teacher_models")
            _warn_of_end(model, self._clock.now().date())
        return teachers

    def teacher(self, choice: str | Model) -> Teacher:
        """Return one model and who speaks for it. SettingsError where there is none."""
        if isinstance(choice, Model):
            return Teacher(self.provider(choice.provider), filled(choice))
        provider_name, model_name = split_name(choice)
        provider = self.provider(provider_name, choice)
        return Teacher(provider, filled(provider.model(model_name)))

    def provider(self, name: str, written: str = "") -> Provider:
        """Return the provider called `name`, made from the environment at first use. SettingsError without one."""
        if name not in self._providers:
            if name not in BUILT_IN and name not in SERVERS:
                known = sorted({*BUILT_IN, *SERVERS, *self._providers})
                whole = (found := owner(written)) and f"; did you mean '{found}:{written}'?"
                raise SettingsError(
                    f"no provider is called {name!r}{whole or nearest(name.lower(), known)}; for another server pass "
                    "`Tanuki(providers=[OpenAICompatible(base_url, name=…)])`"
                )
            self._providers[name] = _make(name)
        return self._providers[name]


def _warn_of_end(model: Model, today: date) -> None:
    """Warn, once per process, of a model that retires soon or should be gone. It is tried: the table may be wrong."""
    if (end := retirement(model, today)) and str(model) not in _warned:
        _warned.add(str(model))
        logger.warning("%s", end)

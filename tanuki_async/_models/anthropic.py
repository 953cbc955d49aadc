"""Anthropic's models on its own platform."""

from __future__ import annotations

from tanuki_async._records import Model

MODELS: tuple[Model, ...] = ()

RETIRED: dict[str, tuple[str | None, str]] = {}
"""What no longer answers: since when, where that is known, and what to use today."""

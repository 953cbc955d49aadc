"""What Amazon Bedrock serves."""

from __future__ import annotations

from tanuki_async._records import Model

MODELS: tuple[Model, ...] = ()

RETIRED: dict[str, tuple[str | None, str]] = {
    "anthropic.claude-v2:1": (None, "bedrock:us.anthropic.claude-sonnet-5-5"),
    "meta.llama2-70b-chat-v1": (None, "bedrock:amazon.nova-pro-v1:0"),
    "meta.llama2-13b-chat-v1": (None, "bedrock:amazon.nova-lite-v1:0"),
}
"""What no longer answers: since when, where that is known, and what to use today."""

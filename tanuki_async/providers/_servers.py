"""Servers that many use and that speak OpenAI's format: where they are, and what is special about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One of them. A `local` one runs on one's own machine, and wants a key only where it was told to."""

    title: str
    url: str
    local: bool = False
    token_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"


SERVERS = {
    "gemini": Server(title="Gemini", url="https://generativelanguage.googleapis.com/v1beta/openai"),
    "groq": Server(title="Groq", url="https://api.groq.com/openai/v1", token_field="max_completion_tokens"),
    "openrouter": Server(title="OpenRouter", url="https://openrouter.ai/api/v1"),
    "vllm": Server(title="vLLM", url="http://localhost:8000/v1", local=True),
    "ollama": Server(title="Ollama", url="http://localhost:11434/v1", local=True),
    "llamacpp": Server(title="llama.cpp", url="http://localhost:8080/v1", local=True),
    "lmstudio": Server(title="LM Studio", url="http://localhost:1234/v1", local=True),
}
"""By the name that stands before the colon in `"provider:model"`. Keys are in GROQ_API_KEY and so on; OLLAMA_BASE_URL
and so on say where one is else."""


def server_at(url: str) -> Server | None:
    """Return which of them is at an address; None for others, and for one's own machine."""
    host = urlsplit(url).hostname
    return next((each for each in SERVERS.values() if not each.local and urlsplit(each.url).hostname == host), None)

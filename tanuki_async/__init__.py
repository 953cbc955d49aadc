"""Typed async functions answered by language models, which get cheaper with use."""

from tanuki_async._version import __version__

__all__ = ["__version__"]

"""One module per wire format: `tanuki_async.providers.openai`, `.anthropic`, `.bedrock` …; import the one you use.

`error_from` is for a provider of your own: the error that fits an unhappy answer, whatever shape its body has.
"""

from tanuki_async.providers._errors import error_from

__all__ = ["error_from"]

"""One module per wire format: `tanuki_async.providers.openai`, `.together`, `.anyscale`; import the one you use."""

"""Places where examples are kept: one module per place, each an implementation of `tanuki_async.abc.Storage`."""

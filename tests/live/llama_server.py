"""Serves a GGUF file in OpenAI's format, until it is terminated: llama_server.py FILE PORT."""

from __future__ import annotations

import sys
import time
from typing import Any


def main(path: str, port: int) -> None:
    import xllamacpp  # type: ignore[import-not-found]

    params: Any = xllamacpp.CommonParams()
    params.model.path, params.hostnames, params.port = path, ["127.0.0.1"], port
    params.n_ctx, params.n_parallel = 4096, 2  # half of it for each request
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1  # two that wait for each other are slower
    params.use_jinja = True
    server = xllamacpp.Server(params)  # returns once it listens, and serves for as long as it is kept
    while server:
        time.sleep(1)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

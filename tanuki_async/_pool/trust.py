"""Whom to trust: the certificates that servers are checked against."""

from __future__ import annotations

import importlib
import os
import ssl
from dataclasses import dataclass
from typing import TypeAlias

from tanuki_async._errors import SettingsError

Verify: TypeAlias = ssl.SSLContext | str | os.PathLike[str] | None


@dataclass(frozen=True, slots=True)
class Trust:
    """How TLS is spoken, and whether HTTP/2 can be."""

    context: ssl.SSLContext
    http2: bool


def read_trust(verify: Verify) -> Trust:
    """Trust what `verify` says, else SSL_CERT_FILE or SSL_CERT_DIR, else the authorities that certifi knows.

    Takes tens of milliseconds. A context that the user made is used as it is, so what it offers is for the user to say.
    """
    http2 = _load_http2()
    if isinstance(verify, ssl.SSLContext):
        return Trust(verify, http2)
    context = _read_file(os.fspath(verify)) if verify is not None else _read_environment()
    context.set_alpn_protocols(["h2", "http/1.1"] if http2 else ["http/1.1"])
    return Trust(context, http2)


def _read_file(path: str) -> ssl.SSLContext:
    folder = os.path.isdir(path)  # noqa: PTH112  # the path may be the user's in any form
    try:
        return ssl.create_default_context(cafile=None if folder else path, capath=path if folder else None)
    except OSError as error:  # SSLError is one
        raise SettingsError(f"cannot read the certificates that verify= names, {path!r}: {error}") from error


def _read_environment() -> ssl.SSLContext:
    import certifi

    file, folder = os.environ.get("SSL_CERT_FILE") or None, os.environ.get("SSL_CERT_DIR") or None
    try:
        return ssl.create_default_context(cafile=file or (None if folder else certifi.where()), capath=folder)
    except OSError as error:
        raise SettingsError(f"cannot read the certificates that SSL_CERT_FILE names, {file!r}: {error}") from error


def _load_http2() -> bool:
    """Tell whether the extra `http2` is there, and load it."""
    try:
        importlib.import_module("tanuki_async._pool.http2")
    except ImportError as error:
        if error.name and error.name.partition(".")[0] == "h2":
            return False
        raise
    return True

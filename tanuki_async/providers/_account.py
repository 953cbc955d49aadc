"""Where a server is and who we are to it: address, key, headers; read from the environment at first use."""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import urlsplit

from tanuki_async._errors import SettingsError, clip
from tanuki_async._version import __version__
from tanuki_async.providers._secrets import Headers, secrets_in


class Account:
    """One account at one server. Its key is shown nowhere."""

    _title: str = "an OpenAI-compatible server"
    _key_variable: str | None = None
    _needs_key: bool = True  # if there is a variable for it
    _url_variable: str | None = None
    _default_url: str | None = None

    def __init__(self, base_url: str | None, api_key: str | None, headers: Mapping[str, str] | None) -> None:
        self._base_url = None if base_url is None else check_url(base_url)
        self._api_key = api_key
        self._extra_headers = dict(headers or {})
        self._headers: Headers | None = None
        self._secrets: tuple[str, ...] = ()
        self._urls: dict[str, str] = {}

    def __repr__(self) -> str:
        where = f"base_url={self._base_url.partition('?')[0]!r}" if self._base_url else ""
        return f"{type(self).__name__}({where})"

    def _key(self) -> str | None:
        if self._api_key is not None:
            return self._api_key.strip()
        return (os.environ.get(self._key_variable) or "").strip() or None if self._key_variable else None

    def _url(self, path: str) -> str:
        url = self._urls.get(path)
        if url is None:
            url = self._urls[path] = self._address(path)
        return url

    def _address(self, path: str) -> str:
        """Make the URL of a path that is not worth keeping; both it and the base may have a query."""
        start, _, query = self._base().partition("?")
        url = start.rstrip("/") + path
        return f"{url}{'&' if '?' in path else '?'}{query}" if query else url

    def _base(self) -> str:
        if self._base_url is None:
            self._base_url = self._base_from_environment()
        return self._base_url

    def _base_from_environment(self) -> str:
        told = os.environ.get(self._url_variable) if self._url_variable else None
        if base := told or self._default_url:
            return check_url(base)
        variable = f"set {self._url_variable}, or " if self._url_variable else ""
        raise SettingsError(f"no address for {self._title}: {variable}pass {type(self).__name__}(base_url=…)")

    def _make_headers(self) -> Headers:
        headers = Headers({"content-type": "application/json", "user-agent": f"tanuki_async/{__version__}"})
        headers |= self._authorization() | self._account_headers()
        headers |= {name.lower(): value for name, value in self._extra_headers.items()}
        if wrong := _unsendable(headers):
            is_key = wrong in ("authorization", "x-api-key")
            source = self._key_variable or "api_key" if is_key else f"the header {wrong!r}"
            raise SettingsError(f"{source} has characters that cannot be sent, such as a line break or an accent")
        self._headers, self._secrets = headers, secrets_in(headers)
        return headers

    def _authorization(self) -> dict[str, str]:
        if key := self._key():
            return {"authorization": f"Bearer {key}"}
        if self._key_variable and self._needs_key:
            raise self._no_key()
        return {}

    def _no_key(self) -> SettingsError:
        return SettingsError(
            f"no API key for {self._title}: set {self._key_variables()}, or pass {self._written('api_key=…')}; "
            "to try without a key, run `tanuki demo`"
        )

    def _key_variables(self) -> str:
        """Name the variables that a key may be in, for a message."""
        return self._key_variable or ""

    def _written(self, argument: str) -> str:
        """Show how this provider is made with an argument, for a message."""
        return f"{type(self).__name__}({argument})"

    def _key_hint(self) -> str:
        """Say where a key that was refused came from; nothing where it was given."""
        source = self._key_source()
        if not source:
            return ""
        return f"the key is from {source}" if self._secrets else f"no key was sent; set {source}"

    def _key_source(self) -> str | None:
        """Name the variable that the key is from; None where it was given."""
        return None if self._api_key else self._key_variable

    def _account_headers(self) -> dict[str, str]:
        return {}


def _unsendable(headers: Mapping[str, str]) -> str | None:
    lines = ((name, f"{name}{value}") for name, value in headers.items())
    return next((name for name, line in lines if not (line.isascii() and line.isprintable())), None)


def check_url(url: str) -> str:
    """Return `url` without a slash at its end. SettingsError for one that is not http or https."""
    url = url.strip().rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(f"a base URL looks like 'https://host/v1', not {clip(url)!r}")
    if parts.username or parts.password:
        raise SettingsError("a base URL cannot hold a user name or password; pass api_key= or headers=")
    return url

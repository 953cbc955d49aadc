"""Where AWS credentials come from: the environment, or the chain that every AWS tool knows (files, SSO, roles)."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import os
import threading
from collections.abc import Callable
from typing import Any

from tanuki_async._errors import SettingsError, clip, own
from tanuki_async.providers._aws_signature import Keys

_MISSING = (
    "no AWS credentials: set AWS_BEARER_TOKEN_BEDROCK (a Bedrock API key) or AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY, or configure a profile, or pass Bedrock(api_key=…), (profile=…) or (session=…)"
)
_NO_LIBRARY = "AWS profiles and roles need the extra `bedrock`: pip install 'tanuki_async[bedrock]'"


class KeyChain:
    """Finds credentials, and keeps them fresh. Belongs to no event loop.

    `session` is a Session of aioboto3, boto3 or botocore. The chain reads files and may ask the network, so it runs in
    a thread; only aioboto3's is asked on the event loop, as it wants to be. Who asks at once shares one look-up.
    """

    def __init__(self, profile: str | None, session: Any) -> None:
        self._profile, self._session = profile, session
        self._chain: Any = session
        self._found: Any = None  # botocore's credentials, which know when they end
        self._keys: Keys | None = None
        self._lock = threading.Lock()
        self._finding: dict[asyncio.AbstractEventLoop, asyncio.Task[Keys]] = {}  # while they run

    async def keys(self) -> Keys:
        """Return credentials that are valid now. SettingsError where there are none."""
        if self._keys is not None and not self._ends_soon():
            return self._keys
        if (keys := self._from_environment()) is not None:
            return keys
        loop = asyncio.get_running_loop()
        task = self._finding.get(loop)
        if task is None:
            task = self._finding[loop] = loop.create_task(self._find(), name="tanuki_async: find AWS credentials")
            task.add_done_callback(self._end)
        try:
            return await asyncio.shield(task)
        except Exception as error:  # noqa: BLE001  # raised below, a copy for each who waits
            failed = own(error)
        raise failed

    def _end(self, task: asyncio.Task[Keys]) -> None:
        del self._finding[task.get_loop()]  # it would keep its loop
        if not task.cancelled():
            task.exception()  # seen: whoever still waits raises it

    def forget(self) -> bool:
        """Look credentials up anew at the next call, since those are refused. False where that would change nothing."""
        kept, self._keys, self._found, self._chain = self._keys, None, None, self._session
        return kept is not None

    async def region(self) -> str | None:
        """The region of the session or profile, where one is named there."""
        if self._session is not None:
            named: str | None = getattr(self._session, "region_name", None)
            return named
        try:
            return await asyncio.to_thread(self._region_of_profile)
        except SettingsError:
            if self._profile is not None:
                raise
            return None

    def _from_environment(self) -> Keys | None:
        """What the environment says comes first, unless a profile or session was asked for by name."""
        if self._session is not None or self._profile is not None:
            return None
        access, secret = os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY")
        return Keys(access, secret, os.environ.get("AWS_SESSION_TOKEN") or None) if access and secret else None

    def _ends_soon(self) -> bool:
        needed: Callable[[], bool] | None = getattr(self._found, "refresh_needed", None)
        return needed is not None and needed()

    async def _find(self) -> Keys:
        found = self._found or await asyncio.to_thread(self._ask)
        if inspect.isawaitable(found):  # of aioboto3
            found = await found
        if found is None:
            raise SettingsError(_MISSING)
        self._found = found
        if inspect.iscoroutinefunction(found.get_frozen_credentials):
            frozen = await found.get_frozen_credentials()
        else:
            frozen = await asyncio.to_thread(_explained, found.get_frozen_credentials)
        self._keys = Keys(frozen.access_key, frozen.secret_key, frozen.token)
        return self._keys

    def _ask(self) -> Any:
        with self._lock:  # several event loops may come here at once
            return self._found or _explained(lambda: self._open().get_credentials())

    def _region_of_profile(self) -> str | None:
        region: str | None = _explained(lambda: self._open().get_config_variable("region"))
        return region

    def _open(self) -> Any:
        if self._chain is None:
            try:
                session = importlib.import_module("botocore.session")
            except ImportError as error:
                raise SettingsError(f"{_MISSING}. {_NO_LIBRARY}") from error
            self._chain = session.Session(profile=self._profile)
        return self._chain


def _explained(ask: Callable[[], Any]) -> Any:
    """Let what botocore raises come out as ours: a profile that is not there, an SSO login that has ended."""
    try:
        return ask()
    except SettingsError:
        raise
    except Exception as error:  # botocore's errors share no base with ours, and readers of files raise others
        raise SettingsError(f"AWS credentials: {clip(str(error))}") from error

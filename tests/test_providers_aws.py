"""What AWS asks of its clients: signatures, credentials, addresses, and the frames of its event streams."""

from __future__ import annotations

import asyncio
import struct
import sys
import threading
import time
import zlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import aioboto3
import boto3
import botocore.auth
import botocore.session
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials, RefreshableCredentials
from botocore.eventstream import EventStreamBuffer
from hypothesis import given, settings
from hypothesis import strategies as st

from tanuki_async._errors import SettingsError
from tanuki_async.providers._aws import AwsAccount
from tanuki_async.providers._aws_events import LARGEST_FRAME, BrokenFrameError, Event, Frames, write
from tanuki_async.providers._aws_keys import KeyChain
from tanuki_async.providers._aws_signature import Keys, signed

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
AT = 1_795_300_000.0
SEGMENTS = st.text("abcXYZ019-_.~:/ é%", min_size=1, max_size=12).filter(lambda text: text not in (".", ".."))
NAMES = st.text("aé:-🦝", min_size=1, max_size=4)


# Signatures


@settings(max_examples=40)
@given(
    method=st.sampled_from(["GET", "POST", "PUT"]),
    segments=st.lists(SEGMENTS, max_size=3),
    query=st.dictionaries(SEGMENTS, SEGMENTS, max_size=3),
    body=st.binary(max_size=60),
    token=st.none() | st.just("session-token/+="),
    service=st.sampled_from(["bedrock", "s3"]),
)
def test_signatures_are_those_that_botocore_makes(
    method: str, segments: list[str], query: dict[str, str], body: bytes, token: str | None, service: str
) -> None:
    path = "/" + "/".join(quote(each, safe="-_.~") for each in segments)
    url = f"https://bedrock-runtime.eu-west-1.amazonaws.com{path}"
    if query:
        url += "?" + urlencode(query, quote_via=quote, safe="-_.~")
    ours = signed(
        method,
        url,
        body,
        keys=Keys("AKIDEXAMPLE", SECRET, token),
        service=service,
        region="eu-west-1",
        at=AT,
        content_type="application/json",
    )
    assert ours["authorization"] == botocores(method, url, body, token, service)


def botocores(method: str, url: str, body: bytes, token: str | None, service: str) -> str:
    """The header that botocore makes for the same moment."""
    request = AWSRequest(method, url, headers={"content-type": "application/json"}, data=body)
    kind = botocore.auth.S3SigV4Auth if service == "s3" else botocore.auth.SigV4Auth
    with pytest.MonkeyPatch.context() as patched:
        moment = datetime.fromtimestamp(AT, UTC).replace(tzinfo=None)
        patched.setattr(botocore.auth, "get_current_datetime", lambda *_, **__: moment, raising=False)
        auth = kind(Credentials("AKIDEXAMPLE", SECRET, token), service, "eu-west-1")
        auth.add_auth(request)
    return str(request.headers["Authorization"])


def test_credentials_do_not_show_themselves() -> None:
    assert SECRET not in repr(Keys("AKIDEXAMPLE", SECRET, "token"))
    headers = signed("POST", "https://h/", b"", keys=Keys("A", SECRET), service="bedrock", region="r", at=AT)
    assert headers["authorization"] not in repr(headers)


# Where credentials come from


@pytest.fixture
def profiles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "credentials").write_text(
        f"[default]\naws_access_key_id = AKIDDEFAULT\naws_secret_access_key = {SECRET}\n"
        f"[work]\naws_access_key_id = AKIDWORK\naws_secret_access_key = {SECRET}\naws_session_token = tok\n"
    )
    (tmp_path / "config").write_text("[default]\nregion = eu-west-1\n[profile work]\nregion = ap-northeast-1\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


async def key_and_region(account: AwsAccount) -> tuple[str, str]:
    url, headers = await account.request("POST", "bedrock-runtime", "/model/m/converse", b"{}")
    return headers["authorization"].partition("Credential=")[2].partition("/")[0], url.split(".")[1]


@pytest.mark.usefixtures("profiles")
async def test_the_usual_chain_finds_the_default_profile_and_its_region() -> None:
    assert await key_and_region(AwsAccount()) == ("AKIDDEFAULT", "eu-west-1")


@pytest.mark.usefixtures("profiles")
async def test_a_profile_by_name_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "bedrock-api-key")
    assert await key_and_region(AwsAccount(profile="work")) == ("AKIDWORK", "ap-northeast-1")


@pytest.mark.usefixtures("profiles")
async def test_the_environment_comes_before_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-2")
    assert await key_and_region(AwsAccount()) == ("AKIDENV", "us-west-2")


@pytest.mark.parametrize("library", [aioboto3, boto3])
async def test_a_session_of_the_users_is_asked(library: Any) -> None:
    given = {"aws_access_key_id": "AKIDGIVEN", "aws_secret_access_key": SECRET, "region_name": "ap-northeast-1"}
    session = await asyncio.to_thread(lambda: library.Session(**given))
    assert await key_and_region(AwsAccount(session=session)) == ("AKIDGIVEN", "ap-northeast-1")


async def test_keys_from_the_environment_need_no_aws_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "botocore.session", None)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    assert await key_and_region(AwsAccount()) == ("AKIDENV", "us-east-1")


@pytest.mark.parametrize("installed", [True, False])
async def test_without_any_credentials_the_error_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, installed: bool, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    if not installed:
        monkeypatch.setitem(sys.modules, "botocore.session", None)
    with pytest.raises(SettingsError, match="AWS_BEARER_TOKEN_BEDROCK") as caught:
        await AwsAccount(region="us-east-1").request("POST", "bedrock-runtime", "/x", b"{}")
    assert ("tanuki_async[bedrock]" in str(caught.value)) is not installed


@pytest.mark.usefixtures("profiles")
async def test_a_profile_that_is_not_there_is_named() -> None:
    with pytest.raises(SettingsError, match="nobody"):
        await AwsAccount(profile="nobody", region="us-east-1").request("POST", "bedrock-runtime", "/x", b"{}")


async def test_without_a_region_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(SettingsError, match="AWS_REGION"):
        await AwsAccount(api_key="k").request("POST", "bedrock-runtime", "/x", b"{}")
    with pytest.raises(SettingsError, match="looks like 'us-east-1'"):
        await AwsAccount(api_key="k", region="us east/1").request("POST", "bedrock-runtime", "/x", b"{}")


class Passing:
    """A session whose credentials end, and are renewed, as those of a role do."""

    region_name = "us-east-1"

    def __init__(self) -> None:
        self.renewed = 0
        self.threads: set[int] = set()

    def get_credentials(self) -> RefreshableCredentials:
        return RefreshableCredentials.create_from_metadata(self._renew(), self._renew, "test")

    def _renew(self) -> dict[str, str]:
        self.renewed += 1
        self.threads.add(threading.get_ident())
        ends = datetime.fromtimestamp(time.time() + (3600 if self.renewed > 1 else 60), UTC)
        return {
            "access_key": f"AKID{self.renewed}",
            "secret_key": SECRET,
            "token": "t",
            "expiry_time": ends.isoformat(),
        }


async def test_credentials_that_end_are_renewed_once_off_the_loop_however_many_ask() -> None:
    session = Passing()
    chain = KeyChain(None, session)
    found = await asyncio.gather(*(chain.keys() for _ in range(50)))
    assert {keys.access for keys in found} == {"AKID2"}  # the first would have ended within the minute
    assert (await chain.keys()).access == "AKID2"
    assert session.renewed == 2
    assert threading.get_ident() not in session.threads


async def test_who_asks_may_be_cancelled_without_harm_to_others() -> None:
    chain = KeyChain(None, Passing())
    first, second = asyncio.create_task(chain.keys()), asyncio.create_task(chain.keys())
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).access == "AKID2"
    await asyncio.sleep(0)
    assert chain._finding == {}


# Addresses and API keys


async def test_addresses_follow_the_region_and_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    async def url(service: Any, **options: Any) -> str:
        return (await AwsAccount(api_key="k", **options).request("GET", service, "/x"))[0]

    assert await url("bedrock-runtime", region="us-east-1") == "https://bedrock-runtime.us-east-1.amazonaws.com/x"
    assert await url("bedrock", region="cn-north-1") == "https://bedrock.cn-north-1.amazonaws.com.cn/x"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:4566/")
    assert await url("bedrock") == "http://127.0.0.1:4566/x"
    monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", "http://127.0.0.1:1")
    assert await url("bedrock-runtime") == "http://127.0.0.1:1/x"
    assert await url("bedrock-runtime", base_url="http://127.0.0.1:2") == "http://127.0.0.1:2/x"
    monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", "bedrock.internal")
    with pytest.raises(SettingsError, match="AWS_ENDPOINT_URL_BEDROCK_RUNTIME"):
        await url("bedrock-runtime")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "aws.internal")
    with pytest.raises(SettingsError, match=r"^AWS_ENDPOINT_URL looks like"):
        await url("bedrock")


async def test_an_api_key_is_shown_to_bedrock_but_s3_gets_a_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", " bedrock-api-key\n")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    account = AwsAccount(region="us-east-1")
    for service in ("bedrock", "bedrock-runtime"):
        _, headers = await account.request("POST", service, "/x", b"{}")
        assert headers["authorization"] == "Bearer bedrock-api-key"
    url, headers = await account.request("PUT", "s3", "/bucket/key", b"x" * 2**20)
    assert url == "https://s3.us-east-1.amazonaws.com/bucket/key"
    assert headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIDENV/")
    with pytest.raises(SettingsError, match="cannot be sent"):
        await AwsAccount(api_key="ké", region="us-east-1").request("POST", "bedrock", "/x")


# Event streams


@settings(max_examples=30)
@given(
    events=st.lists(st.tuples(st.dictionaries(NAMES, NAMES, max_size=2), st.binary(max_size=20)), max_size=4),
    cuts=st.lists(st.integers(1, 40), max_size=9),
)
def test_frames_are_read_however_they_are_cut(events: list[tuple[dict[str, str], bytes]], cuts: list[int]) -> None:
    raw = b"".join(write(headers, payload) for headers, payload in events)
    frames, found = Frames(), []
    for cut in cuts:
        found += frames.feed(raw[:cut])
        raw = raw[cut:]
    found += frames.feed(raw)
    assert found == [Event(headers, payload) for headers, payload in events]


def test_frames_are_those_that_botocore_reads() -> None:
    buffer = EventStreamBuffer()
    buffer.add_data(write({":event-type": "messageStop", ":message-type": "event"}, b'{"stopReason":"end_turn"}'))
    (event,) = list(buffer)
    assert event.headers == {":event-type": "messageStop", ":message-type": "event"}
    assert event.payload == b'{"stopReason":"end_turn"}'


def test_headers_of_every_type_are_passed_over_or_read() -> None:
    values = {0: b"", 1: b"", 2: b"x", 3: b"xx", 4: b"xxxx", 5: b"x" * 8, 6: b"\0\3abc", 8: b"x" * 8, 9: b"x" * 16}
    raw = b"".join(b"\1h" + bytes((kind,)) + value for kind, value in values.items())
    whole = write({"a": "b"}, b"payload")
    found = Frames().feed(reframed(raw + whole[12 : 12 + 6], b"payload"))
    assert found == [Event({"a": "b"}, b"payload")]


def reframed(headers: bytes, payload: bytes) -> bytes:
    sizes = struct.pack("!II", 16 + len(headers) + len(payload), len(headers))
    frame = sizes + struct.pack("!I", zlib.crc32(sizes)) + headers + payload
    return frame + struct.pack("!I", zlib.crc32(frame))


@pytest.mark.parametrize("place", [0, 5, 9, 14, 30, -5, -1])
def test_a_byte_that_changed_on_the_way_is_noticed(place: int) -> None:
    raw = bytearray(write({":event-type": "messageStop"}, b'{"stopReason":"end_turn"}'))
    raw[place] ^= 0x20
    with pytest.raises(BrokenFrameError):
        Frames().feed(bytes(raw))


def test_a_frame_that_claims_too_much_is_refused_at_once() -> None:
    for length, headers in ((LARGEST_FRAME + 1, 0), (3, 0), (100, 2**31)):
        sizes = struct.pack("!II", length, headers)
        with pytest.raises(BrokenFrameError, match="bytes"):
            Frames().feed(sizes + struct.pack("!I", zlib.crc32(sizes)))
    with pytest.raises(BrokenFrameError, match="headers"):
        Frames().feed(reframed(b"\1h\x63", b""))

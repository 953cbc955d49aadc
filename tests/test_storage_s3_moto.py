"""S3: what a server says that looks at signatures. Only where TANUKI_TEST_MOTO is set; `tests/_s3.py` says how."""

from __future__ import annotations

import traceback

import pytest

from tanuki_async._errors import StorageError
from tanuki_async.storage.s3 import S3Storage
from tests import _s3

pytestmark = pytest.mark.skipif(not _s3.MOTO, reason="needs a moto_server: TANUKI_TEST_MOTO says where it is")


async def test_a_wrong_secret_is_told_at_the_opening_without_it() -> None:
    address, (key, secret) = _s3.moto()
    wrong = secret[:-4] + "AAAA"
    storage = S3Storage(_s3.place(address), session=_s3.session(wrong, key))
    with pytest.raises(StorageError, match="the secret access key is wrong: look at AWS_SECRET_ACCESS_KEY") as caught:
        await storage.open()
    await storage.aclose()
    told = "".join(traceback.format_exception(caught.value))
    assert wrong not in told
    assert secret not in told


async def test_an_unknown_key_is_told_at_the_opening() -> None:
    address, (_, secret) = _s3.moto()
    storage = S3Storage(_s3.place(address), session=_s3.session(secret, "AKIANOBODY"))
    with pytest.raises(StorageError, match="the access key id is unknown there: look at AWS_ACCESS_KEY_ID"):
        await storage.open()
    await storage.aclose()


async def test_older_versions_of_what_was_taken_back_are_deleted() -> None:
    address, (key, secret) = _s3.moto()
    storage = S3Storage(_s3.place(address, bucket="versioned"), session=_s3.session(secret, key))
    await storage.append("f/PATCHES", [b"1", b"secret"])
    await storage.put("f/student", b"secret", version=None)
    await storage.remove("f/student")
    assert await storage.rewrite("f/PATCHES", lambda lines: lines[:1]) == 1
    async with _s3.session(secret, key).client("s3", endpoint_url=address) as client:
        listed = await client.list_object_versions(Bucket="versioned", Prefix=storage.place.prefix)
        assert not any("student" in each["Key"] for each in (*listed["Versions"], *listed.get("DeleteMarkers", ())))
        for each in listed["Versions"]:
            answer = await client.get_object(Bucket="versioned", Key=each["Key"], VersionId=each["VersionId"])
            assert b"secret" not in await answer["Body"].read()
    await storage.aclose()

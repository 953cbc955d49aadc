"""What S3 says when it is unhappy: what passes, what somebody else was faster at, and what a person must do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Generator
from typing import Any, cast

from tanuki_async._errors import StorageError, clip

__all__ = ["MISSING", "REFUSED", "code_of", "explained", "is_passing"]

MISSING = frozenset({"NoSuchKey", "404"})
REFUSED = frozenset({"PreconditionFailed", "412", *MISSING})
"""A condition did not hold: the object is another, or there, or gone."""
_PASSING = frozenset(
    {"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "Throttling", "ThrottlingException"}
    | {"TooManyRequests", "RequestLimitExceeded", "OperationAborted", "ConditionalRequestConflict"}
)
_PASSING_STATUS = frozenset({429, 500, 502, 503, 504})
_ADVICE = {
    "InvalidAccessKeyId": "the access key id is unknown there: look at AWS_ACCESS_KEY_ID or the profile",
    "SignatureDoesNotMatch": "the secret access key is wrong: look at AWS_SECRET_ACCESS_KEY or the profile",
    "ExpiredToken": "the session's credentials have ended: log in again",
    "InvalidToken": "the session token is wrong: look at AWS_SESSION_TOKEN",
    "AccessDenied": "the key lacks a right: it needs s3:GetObject, PutObject, DeleteObject and ListBucket there",
    "403": "the key is wrong or lacks a right there",
    "NoSuchBucket": "there is no such bucket: create it, or correct its name or the endpoint",
    "PermanentRedirect": "the bucket is in another region: add ?region=…",
    "AuthorizationHeaderMalformed": "the bucket is in another region: add ?region=…",
    "RequestTimeTooSkewed": "this machine's clock is wrong by minutes: set it",
    "KMS.NotFoundException": "there is no such encryption key: correct kms_key",
    "NoCredentialsError": "there are no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile",
    "PartialCredentialsError": "the AWS credentials are not whole: an id, or a secret, is missing",
    "ProfileNotFound": "there is no such AWS profile",
    "NoRegionError": "no region is known: add ?region=…, or set AWS_REGION",
    "EndpointConnectionError": "nobody answers there: look at the endpoint and the network",
}

_OF_ONE_KEY = frozenset({"AccessDenied", "403"})
"""What may be so for some keys, while others can be written."""


def code_of(error: BaseException) -> str:
    """Return S3's word for an error, or the name of its class."""
    code = _response(error).get("Error", {}).get("Code")
    return str(code) if code else type(error).__name__


def is_passing(error: BaseException) -> bool:
    """Tell whether the same request may go well in a while."""
    if isinstance(error, StorageError):
        return False
    if response := _response(error):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return code_of(error) in _PASSING or status in _PASSING_STATUS
    return isinstance(error, OSError | asyncio.TimeoutError) or _is_of_the_wire(error)


def _response(error: BaseException) -> dict[str, Any]:
    """What botocore keeps of S3's answer; some of its errors keep none."""
    response: object = getattr(error, "response", None)
    return cast("dict[str, Any]", response) if isinstance(response, dict) else {}


def _is_of_the_wire(error: BaseException) -> bool:
    """Cut and slow connections: of botocore, or as aiohttp raises them while a body is read."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"HTTPClientError", "ConnectionError", "ClientError", "IncompleteReadError"})


@contextlib.contextmanager
def explained(doing: str, where: str) -> Generator[None]:
    """Turn whatever S3 and its client raise into a StorageError that says what to do."""
    try:
        yield
    except StorageError:
        raise
    except Exception as error:  # botocore's, aiohttp's and the operating system's share no base
        code = code_of(error)
        advice = _ADVICE.get(code) or clip(str(error)) or "no reason was given"
        down = is_passing(error) or code in _ADVICE.keys() - _OF_ONE_KEY
        raise StorageError(f"could not {doing} {where!r}: {advice} ({code})", down=down) from error

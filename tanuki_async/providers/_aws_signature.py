"""Signs requests to AWS with Signature Version 4, as its SDKs do, in microseconds and without them."""

from __future__ import annotations

import hashlib
import hmac
import time
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote, urlsplit

from tanuki_async.providers._secrets import Headers

_ALGORITHM = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, slots=True, repr=False)
class Keys:
    """Credentials that are valid now. `token` belongs to temporary ones."""

    access: str
    secret: str
    token: str | None = None

    def __repr__(self) -> str:
        return "<AWS keys>"


def signed(
    method: str, url: str, body: bytes, *, keys: Keys, service: str, region: str, at: float, content_type: str = ""
) -> Headers:
    """Return the headers with which a request is accepted for some minutes around `at`, a Unix time.

    `url` is sent exactly as it is here, its path and query percent-encoded.
    """
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(at))
    scope = f"{moment[:8]}/{region}/{service}/aws4_request"
    digest = hashlib.sha256(body).hexdigest()
    headers = Headers({"content-type": content_type} if content_type else {})
    host, path, query = _places(url, twice=service != "s3")
    told = {**headers, "host": host}
    if service == "s3":
        told["x-amz-content-sha256"] = headers["x-amz-content-sha256"] = digest
    told["x-amz-date"] = headers["x-amz-date"] = moment
    if keys.token is not None:
        told["x-amz-security-token"] = headers["x-amz-security-token"] = keys.token
    names = ";".join(told)  # in the order of the alphabet, as they were put in
    lines = "".join([f"{name}:{value}\n" for name, value in told.items()])
    canonical = f"{method}\n{path}\n{query}\n{lines}\n{names}\n{digest}"
    summary = hashlib.sha256(canonical.encode()).hexdigest()
    signature = hmac.digest(
        _signing_key(keys.secret, moment[:8], region, service),
        f"{_ALGORITHM}\n{moment}\n{scope}\n{summary}".encode(),
        "sha256",
    ).hex()
    headers["authorization"] = (
        f"{_ALGORITHM} Credential={keys.access}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return headers


@lru_cache(maxsize=512)
def _places(url: str, *, twice: bool) -> tuple[str, str, str]:
    """Host, path and query as they are signed: the path is encoded once more, except for S3."""
    parts = urlsplit(url)
    path = parts.path or "/"
    query = "&".join(sorted(parts.query.split("&"), key=lambda pair: pair.split("=")))
    return parts.netloc, quote(path, safe="/-_.~") if twice else path, query


@lru_cache(maxsize=64)
def _signing_key(secret: str, day: str, region: str, service: str) -> bytes:
    key = b"AWS4" + secret.encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key

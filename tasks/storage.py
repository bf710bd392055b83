"""S3: whether it can be written to, asked before hours of training depend on it. Bound by the network."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from logging import getLogger
from typing import Any, Literal, NamedTuple
from uuid import uuid4

from aesc.errors import AescError
from tasks.retries import retried_task
from tasks.settings import Settings

S3 = "s3://"
_CONNECT_SECONDS, _READ_SECONDS, _ATTEMPTS = 3, 10, 3
_CONNECTIONS = 32  # no fewer than whoever works in parallel has threads
_WRONG_KEYS = {
    "InvalidAccessKeyId": "does not know the access key",
    "SignatureDoesNotMatch": "rejects the secret key that goes with the access key",
    "AuthorizationHeaderMalformed": "rejects the signature made with the access key",
    "InvalidToken": "rejects the session token that goes with the access key",
    "ExpiredToken": "says that the session token has expired, of the access key",
}
_BUSY = {"SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "500", "502", "503", "504"}


class S3Location(NamedTuple):
    """A bucket and the folder in it; `prefix` has no slash at either end."""

    bucket: str
    prefix: str

    @property
    def url(self) -> str:
        return f"{S3}{self.bucket}/{self.prefix}".rstrip("/")


def redact(text: object) -> str:
    """`text` without the secrets of the AWS environment and without user and password in URLs."""
    clean = str(text)
    for key in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        if secret := os.environ.get(key):
            clean = clean.replace(secret, "***")
    return re.sub(r"(?<=://)[^/@\s]+@", "", clean)


def parse_s3(url: str) -> S3Location:
    """Split s3://bucket/prefix.

    Raises:
        AescError: there is no bucket in it.
    """
    bucket, _, prefix = url.removeprefix(S3).partition("/")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}", bucket):
        raise AescError(redact(url), "no valid bucket name in this address", allowed="s3://bucket/prefix")
    return S3Location(bucket, prefix.strip("/"))


def check_s3(urls: Iterable[str | None], *, settings: Settings) -> None:
    """Write and delete a tiny object below each of the S3 URLs among `urls`; other URLs and None are ignored.

    Raises:
        AescError: the endpoint does not answer (transient); wrong or missing credentials, missing bucket, no permission
            to write.
    """
    locations = dict.fromkeys(parse_s3(url) for url in urls if url and url.startswith(S3))
    if not locations:
        return
    client, key_id = connect(settings)
    for location in locations:
        _probe(client, location, key_id=key_id)


@retried_task(task_run_name="check the stores of {category}")
def check_stores(category: str) -> None:
    """See that the S3 places that the environment names can be written to, before training costs anything."""
    settings = Settings()
    check_s3([settings.artifacts, settings.dvc_remote], settings=settings)


def connect(settings: Settings) -> tuple[Any, str]:
    """A client that gives up within seconds, and the end of its access key's id."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    config = Config(
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
        retries={"mode": "adaptive", "total_max_attempts": _ATTEMPTS},
        max_pool_connections=_CONNECTIONS,
    )
    try:
        session = boto3.Session()
        credentials = session.get_credentials()
        key_id = credentials.access_key if credentials else ""
        return session.client("s3", endpoint_url=settings.s3_endpoint, config=config), key_id[
            -min(4, len(key_id) // 2) :
        ]
    except (BotoCoreError, ValueError) as error:
        raise AescError(
            redact(settings.s3_endpoint or "the AWS environment"),
            redact(error),
            allowed="AWS_ENDPOINT_URL like http://host:port, AWS_PROFILE one of ~/.aws/config",
            todo="correct the AWS_* environment variables",
        ) from None


def _probe(client: Any, location: S3Location, *, key_id: str) -> None:
    from botocore.exceptions import BotoCoreError, ClientError

    key = f"{location.prefix}/.aesc-probe-{uuid4().hex}".lstrip("/")
    try:
        try:
            client.head_bucket(Bucket=location.bucket)
        except ClientError as error:
            # Its answer has no body: only the write below says which key or permission is wrong. And a key
            # may be allowed to write objects without being allowed to look at the bucket.
            if _status(error) != 403:
                raise
        client.put_object(Bucket=location.bucket, Key=key, Body=b"")
    except (BotoCoreError, ClientError) as error:
        raise explain(error, location, endpoint=redact(client.meta.endpoint_url), key_id=key_id) from None
    try:
        client.delete_object(Bucket=location.bucket, Key=key)
    except (BotoCoreError, ClientError) as error:
        getLogger(__name__).warning(
            "%s%s/%s cannot be deleted (%s): an empty object stays there", S3, location.bucket, key, redact(error)
        )


def explain(
    error: Exception, location: S3Location, *, endpoint: str, key_id: str, doing: Literal["read", "write"] = "write"
) -> AescError:
    """The readable form of a botocore error; transient if another try may help."""
    from botocore import exceptions as boto

    where = location.url
    if isinstance(error, boto.ClientError):
        return _explain_answer(error, location, endpoint=endpoint, key_id=key_id, doing=doing)
    if isinstance(error, (boto.NoCredentialsError, boto.PartialCredentialsError)):
        return AescError(
            where,
            "there are no AWS credentials in the environment, or only half of them",
            todo="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
        )
    if isinstance(error, boto.SSLError):
        todo = "set AWS_CA_BUNDLE to its certificate authority, or use http:// in AWS_ENDPOINT_URL"
        return AescError(where, f"no trusted connection to {endpoint}: {redact(error)}", todo=todo)
    if isinstance(error, (boto.HTTPClientError, boto.ConnectionError)):
        todo = "start the S3 server, or correct AWS_ENDPOINT_URL"
        return AescError(
            where, f"the S3 endpoint {endpoint} does not answer: {redact(error)}", todo=todo, transient=True
        )
    if isinstance(error, (boto.IncompleteReadError, boto.ChecksumError, boto.FlexibleChecksumError)):
        found = f"{endpoint} broke off or damaged an answer: {redact(error)}"
        return AescError(where, found, todo="run the same command again", transient=True)
    return AescError(where, f"{endpoint}: {redact(error)}", todo="check AWS_ENDPOINT_URL and the AWS_* variables")


def _explain_answer(error: Any, location: S3Location, *, endpoint: str, key_id: str, doing: str) -> AescError:
    code, status = str(error.response.get("Error", {}).get("Code", "")), _status(error)
    found, todo = f"{endpoint}: {redact(error)}", "check the address and the AWS_* variables"
    transient = code in _BUSY or status >= 500
    if transient:
        found, todo = f"{endpoint} cannot answer now: {redact(error)}", "try again later"
    elif code in _WRONG_KEYS:
        found = f"{endpoint} {_WRONG_KEYS[code]} ending in {key_id!r}"
        todo = "correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN, if you use one)"
    elif code == "RequestTimeTooSkewed":
        todo = "set this machine's clock"
    elif status in {301, 307}:
        region = error.response["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region", "another one")
        found, todo = f"the bucket's region is {region}", "set AWS_DEFAULT_REGION to it"
    elif status == 403:
        found = f"{endpoint} does not let the access key ending in {key_id!r} {doing} there ({code or 'forbidden'})"
        needed = "PutObject, GetObject and ListBucket" if doing == "write" else "GetObject and ListBucket"
        todo = f"give it {needed} there, or use another key"
    elif status == 404:
        found = f"there is no bucket named {location.bucket!r} at {endpoint}"
        todo = f"correct the address, or create it: aws s3 mb {S3}{location.bucket} --endpoint-url {endpoint}"
    return AescError(location.url, found, todo=todo, transient=transient)


def _status(error: Any) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))

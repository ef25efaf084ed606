"""What the S3 operations share: a request, its parts told apart, the objects that it names, and XML."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.etree import ElementTree

from pipeline.local.store.answers import HttpRequest, Reply, RequestError
from pipeline.local.store.storage import Storage, is_unfinished

HOST = re.compile(r"(?:(?P<bucket>.+)\.)?s3[.-].*")
OWN_BUCKET = "local"  # what the stack makes on AWS is always there
PART_BYTES = 8 * 2**20  # multipart_threshold and multipart_chunksize of boto3's TransferConfig


@dataclass(frozen=True)
class StoredObject:
    """An object that is there. One whose key ends with a slash is an empty directory."""

    path: Path

    @cached_property
    def size(self) -> int:
        """In bytes."""
        return 0 if self.path.is_dir() else self.path.stat().st_size

    @property
    def modified(self) -> float:
        """When it was stored, in seconds since 1970."""
        return self.path.stat().st_mtime

    @property
    def modified_text(self) -> str:
        """The same, as XML carries it."""
        return datetime.fromtimestamp(self.modified, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"

    @property
    def etag(self) -> str:
        """The ETag, quoted."""
        status = self.path.stat()
        return content_etag(self.path, self.size, status.st_mtime_ns, status.st_ino)

    def range(self, text: str | None) -> tuple[int, int] | None:
        """First and last byte of a Range header; None for the whole object.

        Raises:
            RequestError: it begins beyond the end.
        """
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", text or "")
        if match is None or not (match[1] or match[2]):
            return None
        first = int(match[1]) if match[1] else max(0, self.size - int(match[2]))
        last = min(int(match[2]), self.size - 1) if match[1] and match[2] else self.size - 1
        if first >= self.size or last < first:
            raise RequestError("InvalidRange", "The requested range is not satisfiable", 416)
        return first, last

    def read(self, part: tuple[int, int] | None = None) -> bytes:
        """The content, or the bytes from the first to the last."""
        if self.size == 0:
            return b""
        first, last = part or (0, self.size - 1)
        with self.path.open("rb") as stream:
            stream.seek(first)
            return stream.read(last - first + 1)


@lru_cache(maxsize=100_000)
def content_etag(path: Path, size: int, mtime_ns: int, inode: int) -> str:
    """The ETag of a file as it was at a time: its MD5, or for a large one a digest of what tells versions apart."""
    if size <= PART_BYTES:
        return md5_etag(path.read_bytes() if size else b"")
    return f'{md5_etag(f"{inode} {mtime_ns}".encode())[:-1]}-{-(-size // PART_BYTES)}"'


def md5_etag(content: bytes) -> str:
    """MD5 as ETags carry it."""
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


@dataclass(frozen=True)
class S3Request:
    """A request, its parts told apart."""

    storage: Storage
    bucket: str
    key: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    method: str

    @classmethod
    def parse(cls, storage: Storage, request: HttpRequest) -> "S3Request":
        """A request as botocore would send it; the bucket is in the host or first in the path."""
        parts = urlsplit(request.url)
        host, path = HOST.fullmatch(parts.hostname or ""), unquote(parts.path).removeprefix("/")
        bucket, key = (host["bucket"], path) if host and host["bucket"] else path.partition("/")[::2]
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        body = unchunked(request.body) if "aws-chunked" in request.headers.get("content-encoding", "") else request.body
        return cls(storage, bucket, key, query, request.headers, body, request.method)

    @property
    def names(self) -> dict[str, str]:
        """Bucket and key, as several answers repeat them."""
        return {"Bucket": self.bucket, "Key": self.key}

    @property
    def uri(self) -> str:
        """The URI of the object."""
        return f"s3://{self.bucket}/{self.key}"

    def bucket_path(self, bucket: str | None = None) -> Path:
        """The directory of the bucket, or of another one.

        Raises:
            RequestError: there is no such bucket.
        """
        name = bucket or self.bucket
        path = self.storage.path(f"s3://{name}")
        if name != OWN_BUCKET and not path.is_dir():
            raise RequestError("NoSuchBucket", f"The specified bucket does not exist: {name}", 404)
        return path

    def path(self, key: str | None = None, bucket: str | None = None) -> Path:
        """The file of the request's key, or of another one, whether or not it is there.

        Raises:
            RequestError: no file can have that name.
        """
        key, bucket = key if key is not None else self.key, bucket or self.bucket
        segments = key.split("/")
        if not key.strip("/") or "\0" in key or any(s in (".", "..") or is_unfinished(s) for s in segments):
            raise RequestError("InvalidRequest", f"The key {key!r} cannot be the path of a file, as it must be here.")
        return self.storage.path(f"s3://{bucket}/{key}")

    def stored(self, key: str | None = None, bucket: str | None = None) -> StoredObject:
        """The object of the request's key, or of another one.

        Raises:
            RequestError: there is no such object.
        """
        path = self.path(key, bucket)
        is_marker = (key or self.key).endswith("/")
        if path.is_dir() and not any(path.iterdir()) if is_marker else path.is_file():
            return StoredObject(path)
        self.bucket_path(bucket)
        uri = f"s3://{bucket or self.bucket}/{key or self.key}"
        raise RequestError("NoSuchKey", f"The specified key does not exist: {uri}", 404)

    def copy_source(self) -> StoredObject:
        """The object that x-amz-copy-source names, its conditions checked."""
        bucket, _, key = unquote(self.headers["x-amz-copy-source"].partition("?")[0]).lstrip("/").partition("/")
        source = self.stored(key, bucket)
        self.check_conditions(source, "x-amz-copy-source-")
        return source

    def check_conditions(self, found: StoredObject | None, prefix: str = "") -> None:
        """Honour If-Match, If-None-Match, If-Modified-Since and If-Unmodified-Since, as RFC 9110 orders them.

        Raises:
            RequestError: a condition does not hold.
        """
        match, none_match = (self.headers.get(f"{prefix}if-{name}match") for name in ("", "none-"))
        after, before = (self.headers.get(f"{prefix}if-{name}modified-since") for name in ("", "un"))
        modified = int(found.modified) if found else 0
        if match:
            fails = found is None or not {found.etag, '"*"'} & tags(match)
        else:
            fails = before is not None and modified > parsedate_to_datetime(before).timestamp()
        if none_match:
            same = found is not None and bool({found.etag, '"*"'} & tags(none_match))
        else:
            same = after is not None and modified <= parsedate_to_datetime(after).timestamp()
        if fails or (same and (prefix or found is None or "content-length" in self.headers)):
            raise RequestError(
                "PreconditionFailed", "At least one of the pre-conditions you specified did not hold", 412
            )
        if same:
            raise RequestError("NotModified", "Not Modified", 304)


def tags(header: str) -> set[str]:
    """The ETags of a condition, each in quotes."""
    return {'"' + tag.strip().strip('"') + '"' for tag in header.split(",")}


def unchunked(body: bytes) -> bytes:
    """The body without the framing (`aws-chunked`) that botocore adds to carry a checksum behind it."""
    content, position = bytearray(), 0
    while True:
        end = body.index(b"\r\n", position)
        size = int(body[position:end].partition(b";")[0], 16)
        if size == 0:
            return bytes(content)
        content += body[end + 2 : end + 2 + size]
        position = end + 4 + size


def xml(name: str, content: Any, status: int = 200) -> Reply:
    """A reply whose body is an XML document; a list is repeated elements."""
    body: bytes = ElementTree.tostring(element(name, content), encoding="utf-8", xml_declaration=True)
    return Reply(status, {"Content-Type": "application/xml"}, body)


def element(name: str, content: Any) -> ElementTree.Element:
    """An XML element of nested dictionaries."""
    node = ElementTree.Element(name)
    if not isinstance(content, dict):
        node.text = str(content)
        return node
    for key, value in content.items():
        node.extend([element(key, item) for item in (value if isinstance(value, list) else [value])])
    return node


def parse_xml(body: bytes) -> ElementTree.Element:
    """A request's document, its names without their namespace.

    Raises:
        RequestError: it is none.
    """
    try:
        document = ElementTree.fromstring(body)
    except ElementTree.ParseError as problem:
        raise RequestError("MalformedXML", "The XML you provided was not well-formed") from problem
    for node in document.iter():
        node.tag = node.tag.rpartition("}")[2]
    return document

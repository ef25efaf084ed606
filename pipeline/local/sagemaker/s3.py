"""Amazon S3 on the plain files of `storage`: the object s3://bucket/key is the file `s3/bucket/key` of the home.

What a plain file does not keep is not kept: user metadata, Content-Type, tags, storage class, encryption, versions. A
key cannot be an object and the prefix of others at once, empty segments of a key are dropped, and `.` and `..` are
refused; a key that ends with a slash is an empty directory. A bucket is made by the first object put into it. The ETag
is the MD5 of objects up to boto3's multipart threshold; beyond it, it ends with a number of parts. Parts of an upload
are files in `uploads/<id>` of the home until they become one object.
"""

import base64
import contextlib
import errno
import hashlib
import io
import os
import re
import secrets
import shutil
from collections.abc import Callable, Generator, Iterator
from copy import copy
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from xml.etree import ElementTree

from pipeline.local.sagemaker.api import function_of
from pipeline.local.store.answers import Body, HttpRequest, Reply, RequestError
from pipeline.local.store.state import State
from pipeline.local.store.storage import Storage, StorageError, file_digest, is_unfinished, replacing

HOST = re.compile(r"(?:(?P<bucket>.+)\.)?s3[.-].*")
OWN_BUCKET = "local"  # what the stack makes on AWS is always there
PART_BYTES = 8 * 2**20  # multipart_threshold and multipart_chunksize of boto3's TransferConfig
COPY_BYTES, CHUNK_HEAD_BYTES = 2**20, 4096
DOCUMENT_BYTES = 8 * 2**20  # of a request that is XML
KEY_BYTES = 1024
OVERRIDE = re.compile("response-(cache-control|expires|content-(type|language|disposition|encoding))")
ECHOED = ("prefix", "delimiter", "marker", "start-after", "max-keys", "encoding-type", "continuation-token")
LEAST_PART_BYTES = 5 * 2**20  # of all parts of an upload but the last
PAGE = 1000  # keys in one answer of a list
ATTEMPTS = 20  # at what fails because somebody else just deleted an object, and its folder with it
BOTH_AT_ONCE = "a key cannot be an object and the prefix of others at once here, where objects are files."
FILE_ERRORS = {
    errno.ENOENT: ("OperationAborted", "another request changes or deletes it, or it is not there; try again."),
    errno.ENAMETOOLONG: ("KeyTooLongError", "Your key is too long for a file of this machine."),
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY), ("InvalidRequest", BOTH_AT_ONCE)),
}


def answer(state: State, request: HttpRequest) -> Reply:
    """Answer one request, or raise a RequestError."""
    operation: Callable[[S3Request], Reply] = function_of("s3", request.operation)
    parsed = S3Request(state, request)
    try:
        for _ in range(ATTEMPTS):
            with contextlib.suppress(FileNotFoundError, FileExistsError):
                return operation(parsed)
        return operation(parsed)
    except StorageError as problem:
        raise RequestError("InvalidRequest", str(problem)) from problem
    except OSError as problem:
        code, said = FILE_ERRORS.get(problem.errno or 0, ("InternalError", problem.strerror))
        raise RequestError(code, f"{parsed.uri}: {said}", 500 if code == "InternalError" else 400) from problem


def not_answered(message: str) -> RequestError:
    """The refusal of what S3 can do and this cannot; its status is 501 on AWS, which says that the server failed."""
    return RequestError("NotImplemented", message)


def whole_number(text: str, name: str, low: int, high: int) -> int:
    """Return a parameter; refused if it is no whole number within these bounds."""
    if not re.fullmatch("[0-9]{1,18}", text) or not low <= int(text) <= high:
        said = f"{name} must be a whole number from {low} to {high}, but is {text[:100]!r}."
        raise RequestError("InvalidArgument", said)
    return int(text)


class StoredObject:
    """An object as it is now. One whose key ends with a slash is an empty directory."""

    def __init__(self, path: Path) -> None:
        status = path.stat()
        self.path = path
        self.size = 0 if path.is_dir() else status.st_size  # bytes
        self.etag = content_etag(path, self.size, status.st_mtime_ns, status.st_ino)
        moment = datetime.fromtimestamp(int(status.st_mtime), UTC)
        self.modified, self.http_modified = f"{moment:%Y-%m-%dT%H:%M:%S}.000Z", format_datetime(moment, usegmt=True)
        self.entry = {"ETag": self.etag, "LastModified": self.modified}  # in XML

    @property
    def sha256(self) -> str:
        """The checksum as headers carry it: of all objects, as none is kept beside them."""
        return base64.b64encode(bytes.fromhex(file_digest(self.path))).decode()

    def bytes_of(self, header: str | None) -> range:
        """The positions that a Range header asks for, or all if there is none."""
        match = re.fullmatch(r"bytes=([0-9]{0,18})-([0-9]{0,18})", header or "")
        first, last = match.groups() if match else ("", "")
        begin, end = int(first or 0), self.size
        if last:
            begin, end = (begin, min(int(last) + 1, end)) if first else (max(0, end - int(last)), end)
        if (first or last) and begin >= end:
            raise RequestError("InvalidRange", "The requested range is not satisfiable", 416)
        return range(begin, end)

    def stream(self, positions: range) -> Body:
        """The content at these positions."""
        file = self.path.open("rb") if self.size else io.BytesIO()
        file.seek(positions.start)
        return Body(file, len(positions))


@lru_cache(maxsize=100_000)
def content_etag(path: Path, size: int, mtime_ns: int, inode: int) -> str:
    """The ETag of a file: its MD5, or for a large one a digest of what tells its versions apart."""
    if size <= PART_BYTES:
        return etag_of(path.read_bytes() if size else b"")
    return f'{etag_of(f"{inode} {mtime_ns}".encode())[:-1]}-{-(-size // PART_BYTES)}"'


def etag_of(content: bytes) -> str:
    """MD5 as ETags carry it."""
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


class S3Request:
    """A request, its parts told apart; botocore puts the bucket into the host or first into the path."""

    def __init__(self, state: State, request: HttpRequest) -> None:
        parts = urlsplit(request.url)
        host, path = HOST.fullmatch(parts.hostname or ""), unquote(parts.path).removeprefix("/")
        self.bucket, self.key = (host["bucket"], path) if host and host["bucket"] else path.partition("/")[::2]
        self.query = dict(parse_qsl(parts.query, keep_blank_values=True))
        self.method, self.headers = request.method, request.headers
        self.content = request.upload or io.BytesIO(request.body)
        self.storage, self.uploads = Storage(state), state.home / "uploads"

    def receive(self, target: Path) -> str:
        """Make a file of the body; return its MD5 in hexadecimal. Refused if it is not what its headers say."""
        with replacing(target) as unfinished, unfinished.open("wb") as file:
            self.content.seek(0)
            is_framed = "aws-chunked" in self.headers.get("content-encoding", "")
            try:
                digest = transferred(chunks(self.content) if is_framed else self.content, file)
                if self.headers.get("x-amz-decoded-content-length", str(file.tell())) != str(file.tell()):
                    raise ValueError(f"{file.tell()} bytes came.")
            except ValueError as problem:
                raise RequestError("IncompleteBody", f"The body is not what its headers say: {problem}") from problem
            expected = self.headers.get("content-md5")
            if expected and base64.b64encode(bytes.fromhex(digest)).decode() != expected:
                raise RequestError("BadDigest", "The Content-MD5 you specified did not match what we received.")
        return digest

    def document(self) -> ElementTree.Element:
        """The body as XML; refused if it is none, or could define entities that grow without end."""
        self.content.seek(0)
        try:
            text = self.content.read(DOCUMENT_BYTES).decode()
            if "<!DOCTYPE" in text:
                raise ValueError("a document type is not accepted.")
            return ElementTree.fromstring(text)
        except (ElementTree.ParseError, ValueError) as problem:
            said = f"The XML you provided was not well-formed or did not validate: {problem}"
            raise RequestError("MalformedXML", said) from problem

    def of(self, bucket: str, key: str) -> "S3Request":
        """The same for another object."""
        other = copy(self)
        other.bucket, other.key = bucket, key
        return other

    @property
    def uri(self) -> str:
        """The URI of the object."""
        return f"s3://{self.bucket}/{self.key}"

    def folder(self) -> Path:
        """The directory of the bucket; refused if there is none."""
        path = self.storage.path(f"s3://{self.bucket}")
        if self.bucket != OWN_BUCKET and not path.is_dir():
            raise RequestError("NoSuchBucket", f"The specified bucket does not exist: {self.bucket}", 404)
        return path

    def path(self) -> Path:
        """The file of the key, whether or not it is there; refused if no file can have that name."""
        segments = self.key.split("/")
        if len(self.key.encode()) > KEY_BYTES:
            raise RequestError("KeyTooLongError", f"Your key is too long: it must have at most {KEY_BYTES} bytes.")
        is_text = "\0" not in self.key and "\ufffd" not in self.key  # which stands for what is not UTF-8
        if not any(segments) or not is_text or any(s in (".", "..") or is_unfinished(s) for s in segments):
            raise StorageError(f"The key {self.key!r} cannot be the path of a file, as it must be here.")
        return self.storage.path(self.uri)

    def stored(self) -> StoredObject:
        """The object of the key; refused if there is none."""
        path = self.path()
        if path.is_dir() and not any(path.iterdir()) if self.key.endswith("/") else path.is_file():
            return StoredObject(path)
        self.folder()
        raise RequestError("NoSuchKey", f"The specified key does not exist: {self.uri}", 404)

    def copy_source(self) -> StoredObject:
        """The object that x-amz-copy-source names, its conditions checked."""
        bucket, _, key = unquote(self.headers["x-amz-copy-source"].partition("?")[0]).lstrip("/").partition("/")
        source = self.of(bucket, key).stored()
        self.check_conditions(source, "x-amz-copy-source-")
        return source

    def check_conditions(self, found: StoredObject | None, prefix: str = "") -> None:
        """Refuse the request if If-Match or If-None-Match does not hold, or if there is a condition of time."""
        for header in [header for header in self.headers if header.startswith(f"{prefix}if-")]:
            if not header.endswith("match"):
                raise not_answered("The local S3 does not answer conditions of time, only If-Match and If-None-Match.")
            tags, is_negated = re.split(r'[\s",]+', self.headers[header]), header.endswith("none-match")
            is_known = found is not None and ("*" in tags or found.etag.strip('"') in tags)
            if is_known and is_negated and not prefix and self.method in ("GET", "HEAD"):
                raise RequestError("NotModified", "Not Modified", 304)
            if is_known == is_negated:
                said = "At least one of the pre-conditions you specified did not hold"
                raise RequestError("PreconditionFailed", said, 412)


def chunks(stream: BinaryIO) -> Generator[bytes, None, None]:
    """Return what is framed as aws-chunked, whose signatures are not checked; ValueError if the frames are wrong."""
    while left := int(stream.readline(CHUNK_HEAD_BYTES).partition(b";")[0], 16):
        while left > 0 and (piece := stream.read(min(left, COPY_BYTES))):
            left -= len(piece)
            yield piece
        if left or stream.readline(2) != b"\r\n":
            raise ValueError("a chunk is shorter or longer than it says.")


def transferred(content: Generator[bytes, None, None] | BinaryIO | Body, target: BinaryIO) -> str:
    """Write content to a file, piece by piece; return its MD5 in hexadecimal."""
    digest = hashlib.md5(usedforsecurity=False)
    for piece in content if isinstance(content, Generator) else iter(partial(content.read, COPY_BYTES), b""):
        digest.update(piece)
        target.write(piece)
    return digest.hexdigest()


def get_object(request: S3Request) -> Reply:
    """GetObject and HeadObject, whole or a range; here no metadata, tags, versions and Content-Type are kept."""
    if request.query.get("partNumber", "1") != "1" or request.query.get("versionId", "null") != "null":
        raise not_answered("The local S3 keeps neither parts nor versions of objects.")
    found = request.stored()
    request.check_conditions(found)
    positions, is_part = found.bytes_of(request.headers.get("range")), "range" in request.headers
    headers = {
        "ETag": found.etag,
        "Content-Length": str(len(positions)),
        "Last-Modified": found.http_modified,
        "Accept-Ranges": "bytes",
        "Content-Type": "binary/octet-stream",
    }
    if is_part:
        headers["Content-Range"] = f"bytes {positions.start}-{positions.stop - 1}/{found.size}"
    if request.method == "HEAD" and "x-amz-checksum-mode" in request.headers:  # boto3 asks at each GET, too
        headers["x-amz-checksum-sha256"] = found.sha256
    for name, value in request.query.items():
        if override := OVERRIDE.fullmatch(name):
            headers[override[1].title()] = value
    return Reply(206 if is_part else 200, headers, found.stream(positions) if request.method == "GET" else b"")


def put_object(request: S3Request) -> Reply:
    """PutObject: here into any bucket, made if need be; a key cannot be an object and the prefix of others at once."""
    path = request.path()
    request.check_conditions(StoredObject(path) if path.is_file() else None)
    if not request.key.endswith("/"):
        request.receive(path)
    elif request.content.read(1):
        raise StorageError(f"{request.uri} ends with a slash, so it can only be empty here.")
    else:
        path.mkdir(parents=True, exist_ok=True)
    return Reply(200, {"ETag": StoredObject(path).etag}, b"")


def copy_object(request: S3Request) -> Reply:
    """CopyObject; objects are replaced and never changed, so that the copy here may be a link."""
    request.storage.upload(request.copy_source().path, request.uri)
    copied = StoredObject(request.path())
    checksum = {"ChecksumSHA256": copied.sha256} if request.headers.get("x-amz-checksum-algorithm") == "SHA256" else {}
    return Reply.xml("CopyObjectResult", {**copied.entry, **checksum})


def delete_object(request: S3Request) -> Reply:
    """DeleteObject and the directories that only it kept; a missing one is no error."""
    path, bucket = request.path(), request.folder()
    with contextlib.suppress(FileNotFoundError, IsADirectoryError, NotADirectoryError):
        path.unlink()
    folder = path if request.key.endswith("/") else path.parent
    with contextlib.suppress(OSError):
        while folder != bucket:
            folder.rmdir()
            folder = folder.parent
    return Reply(204, {}, b"")


def delete_objects(request: S3Request) -> Reply:
    """DeleteObjects."""
    document = request.document()
    result: dict[str, list[dict[str, str]]] = {"Deleted": [], "Error": []}
    for key in [found.text or "" for found in document.iterfind("{*}Object/{*}Key")]:
        try:
            delete_object(request.of(request.bucket, key))
            result["Deleted"] += [{"Key": key}] if document.findtext("{*}Quiet") != "true" else []
        except (StorageError, RequestError) as problem:
            result["Error"] += [{"Key": key, "Code": "InvalidRequest", "Message": str(problem)}]
    return Reply.xml("DeleteResult", result)


def list_objects(request: S3Request) -> Reply:
    """ListObjects and ListObjectsV2: a page of keys and common prefixes, in order."""
    query = request.query
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter") or "\0"  # which is in no key
    token = unquote(query.get("continuation-token", ""), errors="surrogateescape")
    after = token or query.get("start-after", query.get("marker", ""))
    limit = whole_number(query.get("max-keys", str(PAGE)), "max-keys", 0, 2**31 - 1)
    listed: dict[str, StoredObject | None] = {}  # None: a common prefix
    is_truncated = False
    for key, path in keys_below(request.folder(), prefix, after):
        name = prefix + "".join(key.removeprefix(prefix).partition(delimiter)[:2])
        if name <= after or name in listed:
            continue
        if len(listed) == min(limit, PAGE):
            is_truncated = limit > 0
            break
        listed[name] = StoredObject(path) if name == key else None

    def encoded(text: str) -> str:
        return quote(os.fsencode(text)) if query.get("encoding-type") == "url" else text

    content: dict[str, Any] = {
        "Name": request.bucket,
        "MaxKeys": PAGE,
        **{name.title().replace("-", ""): encoded(query[name]) for name in ECHOED if name in query},
        "KeyCount": len(listed),
        "IsTruncated": str(is_truncated).lower(),
        "CommonPrefixes": [{"Prefix": encoded(name)} for name, found in listed.items() if found is None],
        "Contents": [
            {"Key": encoded(key), "Size": found.size, **found.entry} for key, found in listed.items() if found
        ],
    }
    if is_truncated:
        last = next(reversed(listed))
        content |= {"NextMarker": encoded(last), "NextContinuationToken": quote(os.fsencode(last))}
    return Reply.xml("ListBucketResult", content)


def keys_below(bucket: Path, prefix: str, after: str = "") -> Iterator[tuple[str, Path]]:
    """The keys that begin with a prefix and come after another key, and their files, in order."""
    parts = [part for part in prefix.split("/")[:-1] if part not in ("", ".", "..")]
    found = keys_in(bucket.joinpath(*parts), "".join(f"{part}/" for part in parts), after)
    return (each for each in found if each[0].startswith(prefix))


def keys_in(folder: Path, key: str, after: str) -> Iterator[tuple[str, Path]]:
    """The keys of a directory, whose own is `key`, after another key: a page does not read all that came before it."""
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    if not entries and key:
        yield key, folder
    is_folder = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
    for name, entry in sorted((f"{key}{entry.name}{'/' * is_folder[entry.name]}", entry.name) for entry in entries):
        if is_unfinished(entry) or (name <= after and not after.startswith(name)):
            continue
        if is_folder[entry]:
            yield from keys_in(folder / entry, name, after)
        elif name > after and not (folder / entry).is_dir():  # a link to a directory is none of the store's
            yield name, folder / entry


def create_multipart_upload(request: S3Request) -> Reply:
    """CreateMultipartUpload."""
    request.path()  # refuses a bad key before everything is here
    upload_id = secrets.token_hex(16)
    (request.uploads / upload_id).mkdir(parents=True)
    return Reply.xml(
        "InitiateMultipartUploadResult", {"Bucket": request.bucket, "Key": request.key, "UploadId": upload_id}
    )


def upload_folder(request: S3Request) -> Path:
    """The directory of an upload's parts; refused if there is none."""
    upload_id = request.query.get("uploadId", "")
    folder = request.uploads / upload_id
    if not re.fullmatch(r"[0-9a-f]{32}", upload_id) or not folder.is_dir():
        raise RequestError("NoSuchUpload", f"The specified multipart upload does not exist: {upload_id}", 404)
    return folder


def upload_part(request: S3Request) -> Reply:
    """UploadPart and UploadPartCopy, of an object or a range of it."""
    number = whole_number(request.query.get("partNumber", ""), "partNumber", 1, 10_000)
    part = upload_folder(request) / f"{number:05}"
    if "x-amz-copy-source" not in request.headers:
        return Reply(200, {"ETag": f'"{request.receive(part)}"'}, b"")
    source = request.copy_source()
    content = source.stream(source.bytes_of(request.headers.get("x-amz-copy-source-range")))
    with replacing(part) as unfinished, unfinished.open("wb") as file:
        etag = f'"{transferred(content, file)}"'
    return Reply.xml("CopyPartResult", {**StoredObject(part).entry, "ETag": etag})


def complete_multipart_upload(request: S3Request) -> Reply:
    """CompleteMultipartUpload: the object appears whole."""
    folder, parts = upload_folder(request), request.document().iterfind("{*}Part")
    texts = [(part.findtext("{*}PartNumber", ""), part.findtext("{*}ETag", "").strip('"')) for part in parts]
    named = [(whole_number(number, "PartNumber", 1, 10_000), etag) for number, etag in texts]
    if not named or any(before >= after for (before, _), (after, _) in pairwise(named)):
        raise RequestError("InvalidPartOrder", "The list of parts was not in ascending order.")
    with (folder / "whole").open("wb") as whole:
        for number, etag in named:
            part, digest = folder / f"{number:05}", ""
            if part.is_file():
                with part.open("rb") as content:
                    digest = transferred(content, whole)
            if digest != etag:
                raise RequestError("InvalidPart", f"Part {number} could not be found, or its ETag did not match.")
            if part.stat().st_size < LEAST_PART_BYTES and number != named[-1][0]:
                raise RequestError("EntityTooSmall", f"Part {number} is smaller than the minimum of 5 MB.")
    request.storage.upload(folder / "whole", request.uri)
    shutil.rmtree(folder)
    result = {"Bucket": request.bucket, "Key": request.key, "ETag": request.stored().etag}
    return Reply.xml("CompleteMultipartUploadResult", result)


def abort_multipart_upload(request: S3Request) -> Reply:
    """AbortMultipartUpload."""
    shutil.rmtree(upload_folder(request))
    return Reply(204, {}, b"")


def list_buckets(request: S3Request) -> Reply:
    """ListBuckets, by prefix."""
    prefix, folders = request.query.get("prefix", ""), sorted(request.storage.root.glob("*/"))
    wanted = [StoredObject(path) for path in folders if path.name.startswith(prefix)]
    entries = [{"Name": bucket.path.name, "CreationDate": bucket.modified} for bucket in wanted]
    return Reply.xml("ListAllMyBucketsResult", {"Buckets": {"Bucket": entries}})


def create_bucket(request: S3Request) -> Reply:
    """CreateBucket; one that is there stays, as in us-east-1."""
    request.storage.path(f"s3://{request.bucket}").mkdir(parents=True, exist_ok=True)
    return Reply(200, {"Location": f"/{request.bucket}"}, b"")


def delete_bucket(request: S3Request) -> Reply:
    """DeleteBucket, once it is empty."""
    if any(keys_below(request.folder(), "")):
        raise RequestError("BucketNotEmpty", "The bucket you tried to delete is not empty", 409)
    request.folder().rmdir()
    return Reply(204, {}, b"")


def bucket_settings(request: S3Request) -> Reply:
    """HeadBucket and GetBucketLocation. Settings (who may read, encryption) are taken, but not kept here."""
    request.folder()
    location = b"<LocationConstraint/>"  # none, which is how the service calls us-east-1
    return Reply(200, {"x-amz-bucket-region": "us-east-1"}, location)


def get_object_tagging(request: S3Request) -> Reply:
    """GetObjectTagging: an object has no tags here. `aws s3 cp` asks when it copies in parts."""
    request.stored()
    return Reply.xml("Tagging", {"TagSet": ""})


head_object, list_objects_v2, upload_part_copy = get_object, list_objects, upload_part
head_bucket = get_bucket_location = put_bucket_encryption = put_bucket_tagging = bucket_settings
put_bucket_ownership_controls = put_public_access_block = bucket_settings

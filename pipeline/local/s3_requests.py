"""The few S3 operations that Lambda handlers use; they act on the plain files of `storage`."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import formatdate
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from pipeline.local.storage import Storage, StorageError, file_digest, files_below
from pipeline.local.wire import Reply

XML = {"Content-Type": "application/xml"}
PAGE = 1000  # keys in one answer of ListObjectsV2


@dataclass(frozen=True)
class S3Request:
    """A request as it is about to be sent; the names of headers are in lower case."""

    operation: str
    url: str
    headers: dict[str, str]
    body: bytes

    @property
    def uri(self) -> str:
        """s3://bucket/key; buckets are addressed by host or by path."""
        parts = urlsplit(self.url)
        label, _, rest = (parts.hostname or "").partition(".")
        path = unquote(parts.path).lstrip("/")
        return f"s3://{path}" if label == "s3" or rest == "" else f"s3://{label}/{path}"

    def query(self, name: str, default: str = "") -> str:
        """A value of the query string."""
        return parse_qs(urlsplit(self.url).query).get(name, [default])[0]


def answer_s3(storage: Storage, request: S3Request) -> Reply:
    """Answer one request."""
    handler = OPERATIONS.get(request.operation)
    if handler is None:
        return error(400, "NotImplemented", f"The local target does not answer s3:{request.operation}.")
    try:
        return handler(storage, request)
    except (StorageError, OSError) as problem:
        return error(400, "InvalidRequest", str(problem))


def get_object(storage: Storage, request: S3Request) -> Reply:
    """GetObject, whole or a range of its bytes."""
    path = storage.path(request.uri)
    if not path.is_file():
        return error(404, "NoSuchKey", f"The specified key does not exist: {request.uri}")
    content = path.read_bytes()
    headers = {
        "ETag": f'"{file_digest(path)[:32]}"',
        "Content-Length": str(len(content)),
        "Last-Modified": formatdate(path.stat().st_mtime, usegmt=True),
        "Content-Type": "binary/octet-stream",
    }
    if "range" not in request.headers:
        return Reply(200, headers, content)
    first, _, last = request.headers["range"].removeprefix("bytes=").partition("-")
    start = int(first) if first else max(0, len(content) - int(last))
    part = content[start : int(last) + 1 if first and last else len(content)]
    shown = f"bytes {start}-{start + len(part) - 1}/{len(content)}"
    return Reply(206, {**headers, "Content-Length": str(len(part)), "Content-Range": shown}, part)


def head_object(storage: Storage, request: S3Request) -> Reply:
    """HeadObject: the same without the body."""
    whole = get_object(storage, request)
    return Reply(whole.status, whole.headers, b"")


def put_object(storage: Storage, request: S3Request) -> Reply:
    """PutObject."""
    storage.write(request.uri, request.body)
    return Reply(200, {"ETag": f'"{file_digest(storage.path(request.uri))[:32]}"'}, b"")


def copy_object(storage: Storage, request: S3Request) -> Reply:
    """CopyObject; objects are replaced and never changed, so the copy may be a link."""
    source_uri = f"s3://{unquote(request.headers['x-amz-copy-source']).lstrip('/').partition('?')[0]}"
    source = storage.path(source_uri)
    if not source.is_file():
        return error(404, "NoSuchKey", f"The specified key does not exist: {source_uri}")
    storage.upload(source, request.uri)
    copied = storage.path(request.uri)
    changed = datetime.fromtimestamp(copied.stat().st_mtime, UTC).isoformat(timespec="seconds")
    content = f"<ETag>&quot;{file_digest(copied)[:32]}&quot;</ETag><LastModified>{changed}</LastModified>"
    return Reply(200, XML, f"<CopyObjectResult>{content}</CopyObjectResult>".encode())


def delete_object(storage: Storage, request: S3Request) -> Reply:
    """DeleteObject; a missing one is no error."""
    storage.path(request.uri).unlink(missing_ok=True)
    return Reply(204, {}, b"")


def list_objects(storage: Storage, request: S3Request) -> Reply:
    """ListObjectsV2, in the order of the keys, page by page."""
    after = request.query("continuation-token") or request.query("start-after")
    found = listing(storage, request.uri, request.query("prefix"), request.query("delimiter"))
    names = [name for name in found if name > after]
    page = names[: int(request.query("max-keys", str(PAGE)))]
    more = len(names) > len(page)
    parts = [f"<KeyCount>{len(page)}</KeyCount><IsTruncated>{str(more).lower()}</IsTruncated>"]
    if more and page:
        parts.append(f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>")
    for name in page:
        key, size = escape(name), found[name]
        common = f"<CommonPrefixes><Prefix>{key}</Prefix></CommonPrefixes>"
        parts.append(common if size is None else f"<Contents><Key>{key}</Key><Size>{size}</Size></Contents>")
    return Reply(200, XML, f"<ListBucketResult>{''.join(parts)}</ListBucketResult>".encode())


def listing(storage: Storage, bucket_uri: str, prefix: str, delimiter: str) -> dict[str, int | None]:
    """Key -> size below a prefix; keys that share the text up to a delimiter are one common prefix, of no size."""
    bucket = storage.path(bucket_uri)
    top = storage.path(f"{bucket_uri.rstrip('/')}/{prefix.rpartition('/')[0]}")
    files = files_below(top) if top.is_dir() else ()
    sizes = {file.relative_to(bucket).as_posix(): file.stat().st_size for file in files}
    found: dict[str, int | None] = {}
    for key in sorted(key for key in sizes if key.startswith(prefix)):
        rest = key.removeprefix(prefix)
        if delimiter and delimiter in rest:
            found[f"{prefix}{rest.partition(delimiter)[0]}{delimiter}"] = None
        else:
            found[key] = sizes[key]
    return found


def error(status: int, code: str, message: str) -> Reply:
    """An S3 error document."""
    return Reply(status, XML, f"<Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>".encode())


OPERATIONS: dict[str, Callable[[Storage, S3Request], Reply]] = {
    "GetObject": get_object,
    "HeadObject": head_object,
    "PutObject": put_object,
    "CopyObject": copy_object,
    "DeleteObject": delete_object,
    "ListObjectsV2": list_objects,
}

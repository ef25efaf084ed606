"""The few S3 operations that Lambda handlers use: GetObject, PutObject, HeadObject, DeleteObject, ListObjectsV2."""

from collections.abc import Callable
from email.utils import formatdate
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from pipeline.local.state import State
from pipeline.local.storage import Storage, file_digest, files_below
from pipeline.local.wire import Reply


def answer_s3(state: State, operation: str, url: str, body: bytes) -> Reply:
    """Answer one request; buckets are addressed by host or by path."""
    handler = OPERATIONS.get(operation)
    if handler is None:
        return error(400, "NotImplemented", f"The local target does not answer s3:{operation}.")
    parts = urlsplit(url)
    label, _, rest = (parts.hostname or "").partition(".")
    path = unquote(parts.path).lstrip("/")
    uri = f"s3://{path}" if label == "s3" or rest == "" else f"s3://{label}/{path}"
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    return handler(Storage(state), uri, query, body)


def get_object(storage: Storage, uri: str, query: dict[str, str], body: bytes) -> Reply:
    """GetObject and HeadObject."""
    path = storage.path(uri)
    if not path.is_file():
        return error(404, "NoSuchKey", f"The specified key does not exist: {uri}")
    headers = {
        "ETag": f'"{file_digest(path)[:32]}"',
        "Content-Length": str(path.stat().st_size),
        "Last-Modified": formatdate(path.stat().st_mtime, usegmt=True),
        "Content-Type": "binary/octet-stream",
    }
    return Reply(200, headers, path.read_bytes())


def head_object(storage: Storage, uri: str, query: dict[str, str], body: bytes) -> Reply:
    """HeadObject: the same without the body."""
    whole = get_object(storage, uri, query, body)
    return Reply(whole.status, whole.headers, b"")


def put_object(storage: Storage, uri: str, query: dict[str, str], body: bytes) -> Reply:
    """PutObject."""
    storage.write(uri, body)
    return Reply(200, {"ETag": f'"{file_digest(storage.path(uri))[:32]}"'}, b"")


def delete_object(storage: Storage, uri: str, query: dict[str, str], body: bytes) -> Reply:
    """DeleteObject; a missing one is no error."""
    storage.path(uri).unlink(missing_ok=True)
    return Reply(204, {}, b"")


def list_objects(storage: Storage, uri: str, query: dict[str, str], body: bytes) -> Reply:
    """ListObjectsV2, in one page."""
    bucket = storage.path(uri)
    prefix = query.get("prefix", "")
    files = files_below(bucket) if bucket.is_dir() else iter(())
    keys = [(file.relative_to(bucket).as_posix(), file.stat().st_size) for file in files]
    matching = [(key, size) for key, size in keys if key.startswith(prefix)][: int(query.get("max-keys", "1000"))]
    contents = "".join(f"<Contents><Key>{escape(key)}</Key><Size>{size}</Size></Contents>" for key, size in matching)
    document = (
        f"<ListBucketResult><Name>{bucket.name}</Name><KeyCount>{len(matching)}</KeyCount>"
        f"<IsTruncated>false</IsTruncated>{contents}</ListBucketResult>"
    )
    return Reply(200, {"Content-Type": "application/xml"}, document.encode())


def error(status: int, code: str, message: str) -> Reply:
    """An S3 error document."""
    document = f"<Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
    return Reply(status, {"Content-Type": "application/xml"}, document.encode())


Handler = Callable[[Storage, str, dict[str, str], bytes], Reply]

OPERATIONS: dict[str, Handler] = {
    "GetObject": get_object,
    "HeadObject": head_object,
    "PutObject": put_object,
    "DeleteObject": delete_object,
    "ListObjectsV2": list_objects,
}

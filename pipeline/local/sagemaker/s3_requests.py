"""The few S3 operations that Lambda handlers use; they act on the plain files of `storage`."""

from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import formatdate
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from pipeline.local.store.answers import HttpRequest, Reply
from pipeline.local.store.storage import Storage, StorageError, file_digest, files_below

XML = {"Content-Type": "application/xml"}
PAGE = 1000  # keys in one answer of ListObjectsV2


def uri_of(request: HttpRequest) -> str:
    """s3://bucket/key; buckets are addressed by host or by path."""
    parts = urlsplit(request.url)
    host = parts.hostname or ""
    label, _, rest = host.partition(".")
    path = unquote(parts.path).lstrip("/")
    is_address = host.replace(".", "").isdecimal()
    return f"s3://{path}" if label == "s3" or rest == "" or is_address else f"s3://{label}/{path}"


def query(request: HttpRequest, name: str, default: str = "") -> str:
    """A value of the query string."""
    return parse_qs(urlsplit(request.url).query).get(name, [default])[0]


def answer_s3(storage: Storage, request: HttpRequest) -> Reply:
    """Answer one request."""
    handler = OPERATIONS.get(request.operation)
    if handler is None:
        return error(400, "NotImplemented", f"The local target does not answer s3:{request.operation}.")
    try:
        return handler(storage, request)
    except (StorageError, OSError) as problem:
        return error(400, "InvalidRequest", str(problem))


def get_object(storage: Storage, request: HttpRequest) -> Reply:
    """GetObject, whole or a range of its bytes."""
    path = storage.path(uri_of(request))
    if not path.is_file():
        return error(404, "NoSuchKey", f"The specified key does not exist: {uri_of(request)}")
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


def head_object(storage: Storage, request: HttpRequest) -> Reply:
    """HeadObject: the same without the body."""
    whole = get_object(storage, request)
    return Reply(whole.status, whole.headers, b"")


def put_object(storage: Storage, request: HttpRequest) -> Reply:
    """PutObject."""
    storage.write(uri_of(request), request.body)
    return Reply(200, {"ETag": f'"{file_digest(storage.path(uri_of(request)))[:32]}"'}, b"")


def copy_object(storage: Storage, request: HttpRequest) -> Reply:
    """CopyObject; objects are replaced and never changed, so the copy may be a link."""
    source_uri = f"s3://{unquote(request.headers['x-amz-copy-source']).lstrip('/').partition('?')[0]}"
    source = storage.path(source_uri)
    if not source.is_file():
        return error(404, "NoSuchKey", f"The specified key does not exist: {source_uri}")
    storage.upload(source, uri_of(request))
    copied = storage.path(uri_of(request))
    changed = datetime.fromtimestamp(copied.stat().st_mtime, UTC).isoformat(timespec="seconds")
    content = f"<ETag>&quot;{file_digest(copied)[:32]}&quot;</ETag><LastModified>{changed}</LastModified>"
    return Reply(200, XML, f"<CopyObjectResult>{content}</CopyObjectResult>".encode())


def delete_object(storage: Storage, request: HttpRequest) -> Reply:
    """DeleteObject; a missing one is no error."""
    storage.path(uri_of(request)).unlink(missing_ok=True)
    return Reply(204, {}, b"")


def list_objects(storage: Storage, request: HttpRequest) -> Reply:
    """ListObjectsV2, in the order of the keys, page by page."""
    after = query(request, "continuation-token") or query(request, "start-after")
    found = listing(storage, uri_of(request), query(request, "prefix"), query(request, "delimiter"))
    names = [name for name in found if name > after]
    page = names[: int(query(request, "max-keys", str(PAGE)))]
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


OPERATIONS: dict[str, Callable[[Storage, HttpRequest], Reply]] = {
    "GetObject": get_object,
    "HeadObject": head_object,
    "PutObject": put_object,
    "CopyObject": copy_object,
    "DeleteObject": delete_object,
    "ListObjectsV2": list_objects,
}

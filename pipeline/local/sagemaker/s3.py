"""Amazon S3 on the plain files of `storage`: the object s3://bucket/key is the file `s3/bucket/key` of the home.

What a plain file does not keep is not kept: user metadata, Content-Type, tags, storage class, encryption, versions. A
key cannot be an object and the prefix of others at once, empty segments of a key are dropped, and `.` and `..` are
refused; a key that ends with a slash is an empty directory. A bucket is made by the first object put into it. The ETag
is the MD5 of objects up to boto3's multipart threshold; beyond it, it ends with a number of parts.
"""

import contextlib
import errno
import os
from collections.abc import Callable, Mapping
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pipeline.local.sagemaker import s3_uploads
from pipeline.local.sagemaker.s3_request import S3Request, StoredObject, parse_xml, xml
from pipeline.local.store.answers import HttpRequest, Reply, RequestError
from pipeline.local.store.state import State
from pipeline.local.store.storage import Storage, StorageError, is_unfinished

PAGE = 1000  # keys in one answer of a list


def answer_s3(state: State, request: HttpRequest) -> Reply:
    """Answer one request.

    Raises:
        RequestError: it is refused.
    """
    if request.operation not in OPERATIONS:
        raise RequestError("NotImplemented", f"The local target does not answer s3:{request.operation}.", 501)
    parsed = S3Request.parse(Storage(state), request)
    try:
        return OPERATIONS[request.operation](parsed)
    except StorageError as problem:
        raise RequestError("InvalidRequest", str(problem)) from problem
    except OSError as problem:
        raise os_refusal(problem, parsed.uri) from problem


def os_refusal(problem: OSError, uri: str) -> RequestError:
    """What the file system's refusal means for an object."""
    if problem.errno == errno.ENAMETOOLONG:
        return RequestError("KeyTooLongError", f"Your key is too long for a file of this machine: {uri}")
    if problem.errno in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY):
        said = f"{uri}: a key cannot be an object and the prefix of others at once here, where objects are files."
        return RequestError("InvalidRequest", said)
    return RequestError("InternalError", f"{uri}: {problem.strerror}", 500)


def error(problem: RequestError) -> Reply:
    """An S3 error document."""
    return xml("Error", {"Code": problem.code, "Message": str(problem)}, problem.status)


# objects


def get_object(request: S3Request) -> Reply:
    """GetObject, whole or a range of its bytes."""
    found, headers = request.stored(), head_object(request).headers
    part = found.range(request.headers.get("range"))
    return Reply(206 if part else 200, headers, found.read(part))


def head_object(request: S3Request) -> Reply:
    """HeadObject: the headers of GetObject."""
    if request.query.get("partNumber", "1") != "1" or request.query.get("versionId", "null") != "null":
        raise RequestError("NotImplemented", "The local S3 keeps neither parts nor versions of objects.", 501)
    found = request.stored()
    request.check_conditions(found)
    headers = {
        "ETag": found.etag,
        "Content-Length": str(found.size),
        "Last-Modified": formatdate(found.modified, usegmt=True),
        "Accept-Ranges": "bytes",
        "Content-Type": "binary/octet-stream",
    }
    for name, value in request.query.items():
        if name.startswith("response-"):
            headers[name.removeprefix("response-").title()] = value
    if part := found.range(request.headers.get("range")):
        headers["Content-Range"] = f"bytes {part[0]}-{part[1]}/{found.size}"
        headers["Content-Length"] = str(part[1] - part[0] + 1)
    return Reply(206 if part else 200, headers, b"")


def put_object(request: S3Request) -> Reply:
    """PutObject; one whose key ends with a slash is an empty directory."""
    path = request.path()
    request.check_conditions(StoredObject(path) if path.is_file() else None)
    if not request.key.endswith("/"):
        request.storage.write(request.uri, request.body)
    elif request.body:
        raise RequestError("InvalidRequest", f"{request.uri} ends with a slash, so it can only be empty here.")
    else:
        path.mkdir(parents=True, exist_ok=True)
    return Reply(200, {"ETag": StoredObject(path).etag}, b"")


def copy_object(request: S3Request) -> Reply:
    """CopyObject; objects are replaced and never changed, so the copy may be a link."""
    request.storage.upload(request.copy_source().path, request.uri)
    copied = StoredObject(request.path())
    return xml("CopyObjectResult", {"ETag": copied.etag, "LastModified": copied.modified_text})


def delete_object(request: S3Request) -> Reply:
    """DeleteObject; a missing one is no error."""
    remove(request, request.key)
    return Reply(204, {}, b"")


def delete_objects(request: S3Request) -> Reply:
    """DeleteObjects."""
    document = parse_xml(request.body)
    done: list[dict[str, str]] = []
    failed: list[dict[str, str]] = []
    for key in [found.text or "" for found in document.iterfind("Object/Key")]:
        try:
            remove(request, key)
            done.append({"Key": key})
        except RequestError as problem:
            failed.append({"Key": key, "Code": problem.code, "Message": str(problem)})
    return xml("DeleteResult", {"Deleted": [] if document.findtext("Quiet") == "true" else done, "Error": failed})


def remove(request: S3Request, key: str) -> None:
    """Delete an object, and the directories that only it kept."""
    path, top = request.path(key), request.bucket_path()
    with contextlib.suppress(FileNotFoundError, IsADirectoryError, NotADirectoryError):
        path.unlink()
    folder = path if key.endswith("/") else path.parent
    with contextlib.suppress(OSError):
        while folder != top:
            folder.rmdir()
            folder = folder.parent


# lists


def list_objects_v2(request: S3Request) -> Reply:
    """ListObjectsV2."""
    query = request.query
    shown, more = listing_page(request, query.get("continuation-token") or query.get("start-after", ""))
    members: dict[str, Any] = {"KeyCount": len(shown)}
    if "continuation-token" in query:
        members["ContinuationToken"] = query["continuation-token"]
    if "start-after" in query:
        members["StartAfter"] = encoded(request, query["start-after"])
    if more:
        members["NextContinuationToken"] = next(reversed(shown))
    return listing_reply(request, shown, more, members)


def list_objects(request: S3Request) -> Reply:
    """ListObjects, the first version."""
    marker = request.query.get("marker", "")
    shown, more = listing_page(request, marker)
    next_marker = {"NextMarker": encoded(request, next(reversed(shown)))} if more else {}
    return listing_reply(request, shown, more, {"Marker": encoded(request, marker), **next_marker})


def listing_page(request: S3Request, after: str) -> tuple[dict[str, Path | None], bool]:
    """Key -> file of the next keys and common prefixes (of no file) behind a key, in order; whether there are more."""
    prefix, delimiter = request.query.get("prefix", ""), request.query.get("delimiter", "")
    limit = min(int(request.query.get("max-keys", PAGE)), PAGE)
    found: dict[str, Path | None] = {}
    for key, path in sorted(keys_below(request.bucket_path(), prefix)):
        rest = key.removeprefix(prefix)
        common = f"{prefix}{rest.partition(delimiter)[0]}{delimiter}" if delimiter and delimiter in rest else None
        if (common or key) > after and (common or key) not in found:
            if len(found) == limit:
                return found, limit > 0
            found[common or key] = None if common else path
    return found, False


def keys_below(bucket: Path, prefix: str) -> list[tuple[str, Path]]:
    """The keys that begin with a prefix, and their files."""
    found: list[tuple[str, Path]] = []
    top = bucket.joinpath(*(part for part in prefix.split("/")[:-1] if part not in ("", ".", "..")))
    for folder, folders, files in os.walk(top):
        folders[:] = [name for name in folders if not is_unfinished(name)]
        paths = [Path(folder, name) for name in files if not is_unfinished(name)]
        found += [(path.relative_to(bucket).as_posix(), path) for path in paths]
        if not (folders or files) and Path(folder) != bucket:
            found.append((f"{Path(folder).relative_to(bucket).as_posix()}/", Path(folder)))
    return [(key, path) for key, path in found if key.startswith(prefix)]


def listing_reply(
    request: S3Request, shown: Mapping[str, Path | None], more: bool, members: Mapping[str, Any]
) -> Reply:
    """ListBucketResult."""
    content: dict[str, Any] = {"Name": request.bucket, "Prefix": encoded(request, request.query.get("prefix", ""))}
    if "delimiter" in request.query:
        content["Delimiter"] = encoded(request, request.query["delimiter"])
    if "encoding-type" in request.query:
        content["EncodingType"] = request.query["encoding-type"]
    content |= {"MaxKeys": request.query.get("max-keys", PAGE), "IsTruncated": str(more).lower(), **members}
    content["Contents"] = [object_entry(request, key, StoredObject(path)) for key, path in shown.items() if path]
    content["CommonPrefixes"] = [{"Prefix": encoded(request, key)} for key, path in shown.items() if path is None]
    return xml("ListBucketResult", content)


def object_entry(request: S3Request, key: str, found: StoredObject) -> dict[str, Any]:
    """What lists say of an object."""
    return {
        "Key": encoded(request, key),
        "LastModified": found.modified_text,
        "ETag": found.etag,
        "Size": found.size,
        "StorageClass": "STANDARD",
    }


def encoded(request: S3Request, text: str) -> str:
    """A key as lists carry it: URL-encoded where the request asks for that, as botocore does."""
    return quote(os.fsencode(text), safe="/") if request.query.get("encoding-type") == "url" else text


# buckets


def list_buckets(request: S3Request) -> Reply:
    """ListBuckets, by prefix."""
    root = request.storage.root
    folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    wanted = [path for path in folders if path.name.startswith(request.query.get("prefix", ""))]
    entries = [{"Name": path.name, "CreationDate": StoredObject(path).modified_text} for path in wanted]
    return xml("ListAllMyBucketsResult", {"Buckets": {"Bucket": entries}})


def create_bucket(request: S3Request) -> Reply:
    """CreateBucket; one that is there stays, as in us-east-1."""
    request.storage.path(f"s3://{request.bucket}").mkdir(parents=True, exist_ok=True)
    return Reply(200, {"Location": f"/{request.bucket}"}, b"")


def get_bucket_location(request: S3Request) -> Reply:
    """GetBucketLocation: none, which is how the service calls us-east-1."""
    request.bucket_path()
    return xml("LocationConstraint", "")


def delete_bucket(request: S3Request) -> Reply:
    """DeleteBucket, once it is empty."""
    if keys_below(request.bucket_path(), ""):
        raise RequestError("BucketNotEmpty", "The bucket you tried to delete is not empty", 409)
    request.bucket_path().rmdir()
    return Reply(204, {}, b"")


def head_bucket(request: S3Request) -> Reply:
    """HeadBucket, and settings of a bucket that change no other answer: who may read it, how it is encrypted."""
    request.bucket_path()
    return Reply(200, {"x-amz-bucket-region": "us-east-1"}, b"")


OPERATIONS: dict[str, Callable[[S3Request], Reply]] = {
    "GetObject": get_object,
    "HeadObject": head_object,
    "PutObject": put_object,
    "CopyObject": copy_object,
    "DeleteObject": delete_object,
    "DeleteObjects": delete_objects,
    "ListObjects": list_objects,
    "ListObjectsV2": list_objects_v2,
    "CreateMultipartUpload": s3_uploads.create_multipart_upload,
    "UploadPart": s3_uploads.upload_part,
    "UploadPartCopy": s3_uploads.upload_part_copy,
    "CompleteMultipartUpload": s3_uploads.complete_multipart_upload,
    "AbortMultipartUpload": s3_uploads.abort_multipart_upload,
    "ListParts": s3_uploads.list_parts,
    "ListBuckets": list_buckets,
    "CreateBucket": create_bucket,
    "HeadBucket": head_bucket,
    "DeleteBucket": delete_bucket,
    "GetBucketLocation": get_bucket_location,
    **dict.fromkeys(("PutBucketEncryption", "PutBucketOwnershipControls", "PutBucketTagging"), head_bucket),
    "PutPublicAccessBlock": head_bucket,
}

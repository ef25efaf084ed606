"""Multipart uploads: parts are files in `uploads/<id>` of the home until they become one object."""

import re
import secrets
import shutil
from itertools import pairwise
from pathlib import Path

from pipeline.local.sagemaker.s3_request import S3Request, md5_etag, parse_xml, xml
from pipeline.local.store.answers import Reply, RequestError

LEAST_PART_BYTES = 5 * 2**20  # of all parts but the last


def create_multipart_upload(request: S3Request) -> Reply:
    """CreateMultipartUpload."""
    request.path()  # refuses a bad key before everything is here
    upload_id = secrets.token_hex(16)
    (request.storage.state.home / "uploads" / upload_id).mkdir(parents=True)
    return xml("InitiateMultipartUploadResult", {**request.names, "UploadId": upload_id})


def folder_of(request: S3Request) -> Path:
    """The directory of the parts.

    Raises:
        RequestError: there is no such upload.
    """
    upload_id = request.query.get("uploadId", "")
    folder = request.storage.state.home / "uploads" / upload_id
    if not re.fullmatch(r"[0-9a-f]{32}", upload_id) or not folder.is_dir():
        raise RequestError("NoSuchUpload", f"The specified multipart upload does not exist: {upload_id}", 404)
    return folder


def part_path(request: S3Request, number: str) -> Path:
    """The file of a part."""
    return folder_of(request) / f"{int(number):05}"


def upload_part(request: S3Request) -> Reply:
    """UploadPart."""
    part_path(request, request.query["partNumber"]).write_bytes(request.body)
    return Reply(200, {"ETag": md5_etag(request.body)}, b"")


def upload_part_copy(request: S3Request) -> Reply:
    """UploadPartCopy, of an object or a range of it."""
    source = request.copy_source()
    content = source.read(source.range(request.headers.get("x-amz-copy-source-range")))
    part_path(request, request.query["partNumber"]).write_bytes(content)
    return xml("CopyPartResult", {"ETag": md5_etag(content), "LastModified": source.modified_text})


def complete_multipart_upload(request: S3Request) -> Reply:
    """CompleteMultipartUpload: the object appears whole."""
    folder = folder_of(request)
    named = [
        (int(part.findtext("PartNumber", "0")), part.findtext("ETag", "").strip('"'))
        for part in parse_xml(request.body).iterfind("Part")
    ]
    if not named or any(before >= after for (before, _), (after, _) in pairwise(named)):
        raise RequestError("InvalidPartOrder", "The list of parts was not in ascending order.")
    parts = [folder / f"{number:05}" for number, _ in named]
    with (folder / "whole").open("wb") as whole:
        for part, (number, etag) in zip(parts, named, strict=True):
            content = part.read_bytes() if part.is_file() else None
            if content is None or md5_etag(content).strip('"') != etag:
                raise RequestError("InvalidPart", f"Part {number} could not be found, or its ETag did not match.")
            if len(content) < LEAST_PART_BYTES and part != parts[-1]:
                raise RequestError("EntityTooSmall", f"Part {number} is smaller than the minimum of 5 MB.")
            whole.write(content)
    request.storage.upload(folder / "whole", request.uri)
    shutil.rmtree(folder)
    return xml("CompleteMultipartUploadResult", {**request.names, "ETag": request.stored().etag})


def abort_multipart_upload(request: S3Request) -> Reply:
    """AbortMultipartUpload."""
    shutil.rmtree(folder_of(request))
    return Reply(204, {}, b"")


def list_parts(request: S3Request) -> Reply:
    """ListParts, all on one page."""
    parts = [
        {"PartNumber": int(part.name), "ETag": md5_etag(part.read_bytes()), "Size": part.stat().st_size}
        for part in sorted(folder_of(request).glob("[0-9]*"))
    ]
    return xml("ListPartsResult", {**request.names, "IsTruncated": "false", "Part": parts})

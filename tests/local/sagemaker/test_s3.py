"""Amazon S3 through boto3 clients: what keys, lists, ranges, conditions and uploads mean on plain files."""

import hashlib
import io
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from pipeline.local import session


@pytest.fixture
def s3(tmp_path) -> Any:
    client = session(tmp_path / "home").client("s3")
    client.create_bucket(Bucket="bkt")
    return client


def code(call: Any, **request: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**request)
    return str(caught.value.response["Error"]["Code"])


def body(s3: Any, key: str, **more: Any) -> bytes:
    found: bytes = s3.get_object(Bucket="bkt", Key=key, **more)["Body"].read()
    return found


def put(s3: Any, *keys: str) -> None:
    for key in keys:
        s3.put_object(Bucket="bkt", Key=key, Body=key.encode())


def test_buckets_are_made_listed_and_removed_once_they_are_empty(s3, tmp_path):
    assert code(s3.head_bucket, Bucket="none") == "404"
    assert code(s3.list_objects_v2, Bucket="none") == code(s3.get_object, Bucket="none", Key="k") == "NoSuchBucket"
    s3.create_bucket(Bucket="other", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    put(s3, "made/on/the/way")
    assert [found["Name"] for found in s3.list_buckets()["Buckets"]] == ["bkt", "other"]
    assert [found["Name"] for found in s3.list_buckets(Prefix="o")["Buckets"]] == ["other"]
    assert s3.get_bucket_location(Bucket="bkt")["LocationConstraint"] is None
    s3.put_public_access_block(Bucket="bkt", PublicAccessBlockConfiguration={"BlockPublicAcls": True})
    assert code(s3.delete_bucket, Bucket="bkt") == "BucketNotEmpty"
    s3.delete_object(Bucket="bkt", Key="made/on/the/way")
    s3.delete_bucket(Bucket="bkt")
    assert not (tmp_path / "home/s3/bkt").exists()


@pytest.mark.parametrize(
    "key",
    ["a b&<c>.txt", "ü/日本/𝄞", "per%20cent+plus", "q?uery#hash", "x=1;y='2'\"", "line\nbreak", "/lead", "a//b"],
)
def test_a_key_goes_in_and_comes_out_as_it_is(s3, key):
    s3.put_object(Bucket="bkt", Key=key, Body=b"content")
    assert body(s3, key) == b"content"
    assert s3.head_object(Bucket="bkt", Key=key)["ContentLength"] == 7
    listed = [found["Key"] for found in s3.list_objects_v2(Bucket="bkt")["Contents"]]
    assert listed == [key.replace("//", "/").removeprefix("/")]
    s3.copy_object(Bucket="bkt", Key="copy", CopySource={"Bucket": "bkt", "Key": key})
    s3.delete_objects(Bucket="bkt", Delete={"Objects": [{"Key": listed[0]}]})
    assert [found["Key"] for found in s3.list_objects(Bucket="bkt")["Contents"]] == ["copy"]


def test_keys_that_no_file_can_have_are_refused(s3, tmp_path):
    put(s3, "file", "folder/below")
    for key in ("../../state.db", "a/../b", "a/./b", "..", ".name.0123abcd", "nul\0", "file/below", "folder"):
        assert code(s3.put_object, Bucket="bkt", Key=key, Body=b"") == "InvalidRequest", key
    assert code(s3.put_object, Bucket="bkt", Key="x" * 300, Body=b"") == "KeyTooLongError"
    assert code(s3.put_object, Bucket="..", Key="k", Body=b"") in ("InvalidRequest", "ParamValidation")
    assert [found["Key"] for found in s3.list_objects_v2(Bucket="bkt")["Contents"]] == ["file", "folder/below"]


def test_a_key_that_ends_with_a_slash_is_an_empty_folder(s3):
    s3.put_object(Bucket="bkt", Key="folder/")
    assert body(s3, "folder/") == b""
    assert [(o["Key"], o["Size"]) for o in s3.list_objects_v2(Bucket="bkt")["Contents"]] == [("folder/", 0)]
    assert code(s3.put_object, Bucket="bkt", Key="folder/", Body=b"x") == "InvalidRequest"
    s3.delete_object(Bucket="bkt", Key="folder/")
    assert s3.list_objects_v2(Bucket="bkt")["KeyCount"] == 0


def test_lists_are_in_the_order_of_keys_and_fold_common_prefixes(s3):
    put(s3, "a/b", "a.txt", "a/c/d", "A", "b", "a-x/1")
    keys = [found["Key"] for found in s3.list_objects_v2(Bucket="bkt")["Contents"]]
    assert keys == sorted(keys) == ["A", "a-x/1", "a.txt", "a/b", "a/c/d", "b"]
    folded = s3.list_objects_v2(Bucket="bkt", Prefix="a", Delimiter="/", MaxKeys=2)
    assert ([o["Key"] for o in folded["Contents"]], folded["CommonPrefixes"]) == (["a.txt"], [{"Prefix": "a-x/"}])
    assert (folded["KeyCount"], folded["IsTruncated"], folded["Delimiter"]) == (2, True, "/")
    rest = s3.list_objects_v2(
        Bucket="bkt", Prefix="a", Delimiter="/", ContinuationToken=folded["NextContinuationToken"]
    )
    assert ("Contents" in rest, rest["CommonPrefixes"], rest["IsTruncated"]) == (False, [{"Prefix": "a/"}], False)
    behind = s3.list_objects_v2(Bucket="bkt", StartAfter="a/b")
    assert ([o["Key"] for o in behind["Contents"]], behind["StartAfter"]) == (["a/c/d", "b"], "a/b")
    first = s3.list_objects(Bucket="bkt", MaxKeys=4)
    assert (first["NextMarker"], first["MaxKeys"]) == ("a/b", 4)
    assert [o["Key"] for o in s3.list_objects(Bucket="bkt", Marker="a/b")["Contents"]] == ["a/c/d", "b"]
    assert s3.list_objects_v2(Bucket="bkt", Prefix="a/../", MaxKeys=0)["KeyCount"] == 0


def test_more_keys_than_a_page_holds_are_all_listed_and_deleted(s3, tmp_path):
    folder = tmp_path / "home/s3/bkt/many"
    folder.mkdir()
    names = sorted(f"many/{number}" for number in range(2_345))
    for name in names:
        (folder.parent / name).touch()
    for operation, size in (("list_objects_v2", None), ("list_objects", 700)):
        pages = s3.get_paginator(operation).paginate(Bucket="bkt", PaginationConfig={"PageSize": size})
        assert [found["Key"] for page in pages for found in page["Contents"]] == names
    done = s3.delete_objects(Bucket="bkt", Delete={"Objects": [{"Key": name} for name in names[:1000]], "Quiet": True})
    assert "Deleted" not in done
    asked = {"Objects": [{"Key": name} for name in [*names[1000:1002], "none", "../x"]]}
    done = s3.delete_objects(Bucket="bkt", Delete=asked)
    assert [found["Key"] for found in done["Deleted"]] == [*names[1000:1002], "none"]
    assert [(found["Key"], found["Code"]) for found in done["Errors"]] == [("../x", "InvalidRequest")]
    assert len(list(folder.iterdir())) == 1343


def test_parts_of_an_object_are_read_by_range(s3):
    s3.put_object(Bucket="bkt", Key="k", Body=b"0123456789")
    s3.put_object(Bucket="bkt", Key="empty", Body=b"")
    for asked, expected in {"bytes=2-4": b"234", "bytes=7-": b"789", "bytes=-3": b"789", "bytes=8-99": b"89"}.items():
        found = s3.get_object(Bucket="bkt", Key="k", Range=asked)
        assert (found["Body"].read(), found["ResponseMetadata"]["HTTPStatusCode"]) == (expected, 206)
    assert s3.get_object(Bucket="bkt", Key="k", Range="bytes=2-4")["ContentRange"] == "bytes 2-4/10"
    assert code(s3.get_object, Bucket="bkt", Key="k", Range="bytes=10-") == "InvalidRange"
    assert body(s3, "empty") == b""
    assert s3.get_object(Bucket="bkt", Key="k", ResponseContentType="text/csv")["ContentType"] == "text/csv"
    assert code(s3.get_object, Bucket="bkt", Key="k", VersionId="v1") == "NotImplemented"


def test_conditions_are_honoured(s3):
    etag = s3.put_object(Bucket="bkt", Key="k", Body=b"one")["ETag"]
    assert etag == f'"{hashlib.md5(b"one").hexdigest()}"'
    changed = s3.head_object(Bucket="bkt", Key="k")["LastModified"]
    later, earlier = changed.replace(year=changed.year + 1), changed.replace(year=changed.year - 1)
    assert body(s3, "k", IfMatch=etag) == body(s3, "k", IfNoneMatch='"other"') == b"one"
    assert body(s3, "k", IfModifiedSince=earlier) == body(s3, "k", IfUnmodifiedSince=later) == b"one"
    assert code(s3.get_object, Bucket="bkt", Key="k", IfMatch='"other"') == "PreconditionFailed"
    assert code(s3.get_object, Bucket="bkt", Key="k", IfUnmodifiedSince=earlier) == "PreconditionFailed"
    assert code(s3.get_object, Bucket="bkt", Key="k", IfNoneMatch=etag) == "304"
    assert code(s3.head_object, Bucket="bkt", Key="k", IfModifiedSince=later) == "304"
    assert code(s3.put_object, Bucket="bkt", Key="k", Body=b"two", IfNoneMatch="*") == "PreconditionFailed"
    assert code(s3.put_object, Bucket="bkt", Key="new", Body=b"two", IfMatch=etag) == "PreconditionFailed"
    copy = {"Bucket": "bkt", "Key": "copy", "CopySource": "bkt/k"}
    assert code(s3.copy_object, **copy, CopySourceIfNoneMatch=etag) == "PreconditionFailed"
    s3.put_object(Bucket="bkt", Key="k", Body=b"two", IfMatch=etag)
    s3.put_object(Bucket="bkt", Key="new", Body=b"new", IfNoneMatch="*")
    assert (body(s3, "k"), body(s3, "new")) == (b"two", b"new")


def test_a_copy_stays_as_it_was_when_its_source_is_replaced(s3):
    put(s3, "source")
    copied = s3.copy_object(Bucket="other", Key="a/copy", CopySource="bkt/source", TaggingDirective="REPLACE")
    assert copied["CopyObjectResult"]["ETag"] == s3.head_object(Bucket="other", Key="a/copy")["ETag"]
    s3.put_object(Bucket="bkt", Key="source", Body=b"two")
    assert s3.get_object(Bucket="other", Key="a/copy")["Body"].read() == b"source"
    assert code(s3.copy_object, Bucket="bkt", Key="c", CopySource="bkt/none") == "NoSuchKey"


def test_files_of_any_size_go_up_and_come_down_whole(s3, tmp_path):
    content = bytes(range(256)) * 80_000  # 20 MB: three parts
    (tmp_path / "up").write_bytes(content)
    s3.upload_file(str(tmp_path / "up"), "bkt", "ü/large")
    s3.upload_fileobj(io.BytesIO(b"small"), "bkt", "small", ExtraArgs={"ServerSideEncryption": "aws:kms"})
    s3.copy({"Bucket": "bkt", "Key": "ü/large"}, "bkt", "copied")
    assert s3.head_object(Bucket="bkt", Key="ü/large")["ETag"].endswith('-3"')
    for key in ("ü/large", "copied"):
        s3.download_file("bkt", key, str(tmp_path / "down"))
        assert (tmp_path / "down").read_bytes() == content
    assert body(s3, "small") == b"small"
    assert not list((tmp_path / "home/uploads").iterdir())


def test_an_upload_in_parts_appears_whole_or_not_at_all(s3, tmp_path):
    put(s3, "source")
    upload = s3.create_multipart_upload(Bucket="bkt", Key="k")["UploadId"]
    which = {"Bucket": "bkt", "Key": "k", "UploadId": upload}
    five = b"5" * (5 * 2**20)
    first = s3.upload_part(**which, PartNumber=2, Body=five)["ETag"]
    copy = s3.upload_part_copy(**which, PartNumber=7, CopySource="bkt/source", CopySourceRange="bytes=1-3")
    last = copy["CopyPartResult"]["ETag"]
    assert [part["PartNumber"] for part in s3.list_parts(**which)["Parts"]] == [2, 7]
    parts = [{"PartNumber": 2, "ETag": first}, {"PartNumber": 7, "ETag": last}]
    for wrong, expected in (
        ([*reversed(parts)], "InvalidPartOrder"),
        ([{"PartNumber": 3, "ETag": first}], "InvalidPart"),
        ([{"PartNumber": 2, "ETag": last}], "InvalidPart"),
    ):
        found = code(s3.complete_multipart_upload, **which, MultipartUpload={"Parts": wrong})
        assert found == expected
    assert code(s3.head_object, Bucket="bkt", Key="k") == "404"
    s3.complete_multipart_upload(**which, MultipartUpload={"Parts": parts})
    assert body(s3, "k") == five + b"our"
    assert code(s3.upload_part, **which, PartNumber=1, Body=b"") == "NoSuchUpload"
    which["UploadId"] = s3.create_multipart_upload(Bucket="bkt", Key="k")["UploadId"]
    s3.upload_part(**which, PartNumber=1, Body=b"x")
    s3.abort_multipart_upload(**which)
    assert body(s3, "k") == five + b"our"
    assert not list((tmp_path / "home/uploads").iterdir())


def test_checksums_and_addresses_that_clients_choose_change_nothing(tmp_path):
    for number, config in enumerate(
        (
            Config(request_checksum_calculation="when_supported", response_checksum_validation="when_supported"),
            Config(s3={"addressing_style": "path"}),
            Config(s3={"addressing_style": "virtual"}),
        )
    ):
        client = session(tmp_path).client("s3", config=config, region_name="eu-central-1")
        client.put_object(Bucket="bkt", Key=f"{number}/a", Body=b"x" * 3_000_000)
        client.put_object(Bucket="with.dots", Key=f"{number}", Body=io.BytesIO(b"y"), ChecksumAlgorithm="SHA256")
        assert client.get_object(Bucket="bkt", Key=f"{number}/a")["Body"].read() == b"x" * 3_000_000
        assert client.get_object(Bucket="with.dots", Key=f"{number}")["Body"].read() == b"y"


def test_what_s3_cannot_do_here_is_refused_by_name(s3):
    with pytest.raises(ClientError, match="The local target does not answer s3:PutBucketVersioning"):
        s3.put_bucket_versioning(Bucket="bkt", VersioningConfiguration={"Status": "Enabled"})
    put(s3, "k")
    with pytest.raises(ClientError, match="does not answer s3:PutObjectTagging"):
        s3.put_object_tagging(Bucket="bkt", Key="k", Tagging={"TagSet": []})

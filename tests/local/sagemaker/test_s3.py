"""Amazon S3 through boto3 clients: what keys, lists, ranges, conditions and uploads mean on plain files."""

import hashlib
import io
import threading
import tracemalloc
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
        call(Bucket=request.pop("Bucket", "bkt"), **request)
    return str(caught.value.response["Error"]["Code"])


def body(s3: Any, key: str, **more: Any) -> bytes:
    found: bytes = s3.get_object(Bucket="bkt", Key=key, **more)["Body"].read()
    return found


def put(s3: Any, *keys: str) -> None:
    for key in keys:
        s3.put_object(Bucket="bkt", Key=key, Body=key.encode())


def keys(answer: Any) -> list[str]:
    return [found["Key"] for found in answer.get("Contents", [])]


def test_buckets_are_made_listed_and_removed_once_they_are_empty(s3, tmp_path):
    assert code(s3.head_bucket, Bucket="none") == "404"
    assert code(s3.list_objects_v2, Bucket="none") == code(s3.get_object, Bucket="none", Key="k") == "NoSuchBucket"
    s3.create_bucket(Bucket="other", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    put(s3, "made/on/the/way")
    assert [found["Name"] for found in s3.list_buckets()["Buckets"]] == ["bkt", "other"]
    assert [found["Name"] for found in s3.list_buckets(Prefix="o")["Buckets"]] == ["other"]
    assert s3.get_bucket_location(Bucket="bkt")["LocationConstraint"] is None
    s3.put_public_access_block(Bucket="bkt", PublicAccessBlockConfiguration={"BlockPublicAcls": True})
    assert code(s3.delete_bucket) == "BucketNotEmpty"
    s3.delete_object(Bucket="bkt", Key="made/on/the/way")
    s3.delete_bucket(Bucket="bkt")
    assert not (tmp_path / "home/s3/bkt").exists()


ODD_KEYS = ["a b&<c>.txt", "ü/日本/𝄞", "per%20cent+plus", "q?uery#hash", "x=1;y='2'\"", "line\nbreak", "/lead", "a//b"]


@pytest.mark.parametrize("key", ODD_KEYS)
def test_a_key_goes_in_and_comes_out_as_it_is(s3, key):
    s3.put_object(Bucket="bkt", Key=key, Body=b"content")
    assert body(s3, key) == b"content"
    assert s3.head_object(Bucket="bkt", Key=key)["ContentLength"] == 7
    listed = keys(s3.list_objects_v2(Bucket="bkt"))
    assert listed == [key.replace("//", "/").removeprefix("/")]
    s3.copy_object(Bucket="bkt", Key="zz", CopySource={"Bucket": "bkt", "Key": key})
    page = s3.get_paginator("list_objects_v2").paginate(Bucket="bkt", PaginationConfig={"PageSize": 1})
    assert [keys(found) for found in page] == sorted([listed, ["zz"]])
    s3.delete_objects(Bucket="bkt", Delete={"Objects": [{"Key": listed[0]}]})
    assert keys(s3.list_objects(Bucket="bkt")) == ["zz"]


def test_keys_that_no_file_can_have_are_refused_and_one_with_a_slash_is_a_folder(s3):
    put(s3, "file", "folder/below")
    for key in ("../../state.db", "a/../b", "a/./b", "..", ".name.0123abcd", "nul\0", "file/below", "folder"):
        assert code(s3.put_object, Key=key, Body=b"") == "InvalidRequest", key
    assert code(s3.put_object, Key="x" * 300, Body=b"") == "KeyTooLongError"
    assert code(s3.put_object, Bucket="..", Key="k", Body=b"") in ("InvalidRequest", "ParamValidation")
    s3.put_object(Bucket="bkt", Key="empty/")
    assert body(s3, "empty/") == b""
    assert code(s3.put_object, Key="empty/", Body=b"x") == "InvalidRequest"
    assert keys(s3.list_objects_v2(Bucket="bkt")) == ["empty/", "file", "folder/below"]
    s3.delete_object(Bucket="bkt", Key="empty/")
    assert keys(s3.list_objects_v2(Bucket="bkt")) == ["file", "folder/below"]


def test_lists_are_in_the_order_of_keys_and_fold_common_prefixes(s3):
    put(s3, "a/b", "a.txt", "a/c/d", "A", "b", "a-x/1")
    assert keys(s3.list_objects_v2(Bucket="bkt")) == ["A", "a-x/1", "a.txt", "a/b", "a/c/d", "b"]
    asked = {"Bucket": "bkt", "Prefix": "a", "Delimiter": "/"}
    folded = s3.list_objects_v2(**asked, MaxKeys=2)
    assert (keys(folded), folded["CommonPrefixes"]) == (["a.txt"], [{"Prefix": "a-x/"}])
    assert (folded["KeyCount"], folded["IsTruncated"], folded["Delimiter"]) == (2, True, "/")
    rest = s3.list_objects_v2(**asked, ContinuationToken=folded["NextContinuationToken"])
    assert (keys(rest), rest["CommonPrefixes"], rest["IsTruncated"]) == ([], [{"Prefix": "a/"}], False)
    assert keys(s3.list_objects_v2(Bucket="bkt", StartAfter="a/b")) == ["a/c/d", "b"]
    first = s3.list_objects(Bucket="bkt", MaxKeys=4)
    assert (first["NextMarker"], first["MaxKeys"]) == ("a/b", 4)
    assert keys(s3.list_objects(Bucket="bkt", Marker="a/b")) == ["a/c/d", "b"]
    assert s3.list_objects_v2(Bucket="bkt", Prefix="a/../", MaxKeys=0)["KeyCount"] == 0


def test_more_keys_than_a_page_holds_are_all_listed_and_deleted(s3, tmp_path):
    folder = tmp_path / "home/s3/bkt/many"
    folder.mkdir()
    names = sorted(f"many/{number}" for number in range(2_345))
    for name in names:
        (folder.parent / name).touch()
    for operation, size in (("list_objects_v2", None), ("list_objects", 700)):
        pages = s3.get_paginator(operation).paginate(Bucket="bkt", PaginationConfig={"PageSize": size})
        assert [key for page in pages for key in keys(page)] == names
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
    assert code(s3.get_object, Key="k", Range="bytes=10-") == "InvalidRange"
    assert body(s3, "empty") == b""
    assert s3.get_object(Bucket="bkt", Key="k", ResponseContentType="text/csv")["ContentType"] == "text/csv"
    assert code(s3.get_object, Key="k", VersionId="v1") == "NotImplemented"


def test_conditions_are_honoured_or_refused(s3):
    etag = s3.put_object(Bucket="bkt", Key="k", Body=b"one")["ETag"]
    assert etag == f'"{hashlib.md5(b"one").hexdigest()}"'
    assert body(s3, "k", IfMatch=etag) == body(s3, "k", IfNoneMatch='"other"') == b"one"
    assert code(s3.get_object, Key="k", IfNoneMatch=etag) == "304"
    refused = [
        code(s3.get_object, Key="k", IfMatch='"other"'),
        code(s3.put_object, Key="k", Body=b"two", IfNoneMatch="*"),
        code(s3.put_object, Key="new", Body=b"two", IfMatch=etag),
        code(s3.copy_object, Key="copy", CopySource="bkt/k", CopySourceIfNoneMatch=etag),
    ]
    assert refused == ["PreconditionFailed"] * 4
    changed = s3.head_object(Bucket="bkt", Key="k")["LastModified"]
    assert code(s3.get_object, Key="k", IfModifiedSince=changed) == "NotImplemented"
    s3.put_object(Bucket="bkt", Key="k", Body=b"two", IfMatch=etag)
    s3.put_object(Bucket="bkt", Key="new", Body=b"new", IfNoneMatch="*")
    assert (body(s3, "k"), body(s3, "new")) == (b"two", b"new")


def test_a_copy_stays_as_it_was_when_its_source_is_replaced(s3):
    put(s3, "source")
    copied = s3.copy_object(Bucket="other", Key="a/copy", CopySource="bkt/source", TaggingDirective="REPLACE")
    assert copied["CopyObjectResult"]["ETag"] == s3.head_object(Bucket="other", Key="a/copy")["ETag"]
    s3.put_object(Bucket="bkt", Key="source", Body=b"two")
    assert s3.get_object(Bucket="other", Key="a/copy")["Body"].read() == b"source"
    assert code(s3.copy_object, Key="c", CopySource="bkt/none") == "NoSuchKey"


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


def test_an_object_larger_than_memory_is_read_piece_by_piece_and_stays_what_it_was(s3, tmp_path):
    with (tmp_path / "home/s3/bkt/huge").open("wb") as huge:
        huge.truncate(2**40)
    tracemalloc.start()
    found = s3.get_object(Bucket="bkt", Key="huge")
    s3.delete_object(Bucket="bkt", Key="huge")
    assert [found["Body"].read(10_000_000) for _ in range(3)] == [bytes(10_000_000)] * 3
    assert tracemalloc.get_traced_memory()[1] < 60_000_000
    tracemalloc.stop()


def test_an_upload_in_parts_appears_whole_or_not_at_all(s3, tmp_path):
    put(s3, "source")
    which = {"Key": "k", "UploadId": s3.create_multipart_upload(Bucket="bkt", Key="k")["UploadId"]}
    five = b"5" * (5 * 2**20)
    first = s3.upload_part(Bucket="bkt", **which, PartNumber=2, Body=five)["ETag"]
    copied = {"CopySource": "bkt/source", "CopySourceRange": "bytes=1-3"}
    last = s3.upload_part_copy(Bucket="bkt", **which, PartNumber=7, **copied)["CopyPartResult"]["ETag"]
    parts = [{"PartNumber": 2, "ETag": first}, {"PartNumber": 7, "ETag": last}]
    for wrong, expected in (
        ([*reversed(parts)], "InvalidPartOrder"),
        ([{"PartNumber": 3, "ETag": first}], "InvalidPart"),
        ([{"PartNumber": 2, "ETag": last}], "InvalidPart"),
    ):
        assert code(s3.complete_multipart_upload, **which, MultipartUpload={"Parts": wrong}) == expected
    assert code(s3.head_object, Key="k") == "404"
    s3.complete_multipart_upload(Bucket="bkt", **which, MultipartUpload={"Parts": parts})
    assert body(s3, "k") == five + b"our"
    assert code(s3.upload_part, **which, PartNumber=1, Body=b"") == "NoSuchUpload"
    which["UploadId"] = s3.create_multipart_upload(Bucket="bkt", Key="k")["UploadId"]
    s3.upload_part(Bucket="bkt", **which, PartNumber=1, Body=b"x")
    s3.abort_multipart_upload(Bucket="bkt", **which)
    assert body(s3, "k") == five + b"our"
    assert not list((tmp_path / "home/uploads").iterdir())


def test_deletes_and_lists_beside_uploads_into_the_same_folder_disturb_neither(s3, tmp_path):
    failed: list[Exception] = []

    def work(number: int) -> None:
        client = session(tmp_path / "home").client("s3")
        try:
            for _ in range(150):
                client.put_object(Bucket="bkt", Key=f"a/b/c/{number}", Body=b"x")
                client.list_objects_v2(Bucket="bkt")
                client.delete_object(Bucket="bkt", Key=f"a/b/c/{number}")
        except ClientError as problem:
            failed.append(problem)

    threads = [threading.Thread(target=work, args=[number]) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert keys(s3.list_objects_v2(Bucket="bkt")) == []


@pytest.mark.parametrize(
    "config",
    [
        {"request_checksum_calculation": "when_supported", "response_checksum_validation": "when_supported"},
        {"s3": {"addressing_style": "path"}},
        {"s3": {"addressing_style": "virtual"}},
    ],
)
def test_checksums_and_addresses_that_clients_choose_change_nothing(tmp_path, config):
    client = session(tmp_path).client("s3", config=Config(**config), region_name="eu-central-1")
    client.put_object(Bucket="bkt", Key="a", Body=b"x" * 3_000_000)
    client.put_object(Bucket="with.dots", Key="b", Body=io.BytesIO(b"y"), ChecksumAlgorithm="SHA256")
    assert body(client, "a") == b"x" * 3_000_000
    assert client.get_object(Bucket="with.dots", Key="b")["Body"].read() == b"y"


def test_what_s3_cannot_do_here_is_refused_by_name(s3):
    put(s3, "k")
    with pytest.raises(ClientError, match="The local target does not answer s3:PutObjectTagging"):
        s3.put_object_tagging(Bucket="bkt", Key="k", Tagging={"TagSet": []})
    with pytest.raises(ClientError, match=r"makes no presigned URLs \(s3:GetObject\)"):
        s3.generate_presigned_url("get_object", Params={"Bucket": "bkt", "Key": "k"})
    with pytest.raises(ClientError, match="makes no presigned URLs"):
        s3.generate_presigned_post("bkt", "k")

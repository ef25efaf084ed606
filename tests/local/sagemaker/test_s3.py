"""Amazon S3 through boto3 clients, where it takes more than a call; `cases/s3.json` has the rest."""

import io
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
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
        call(Bucket="bkt", **request)
    return str(caught.value.response["Error"]["Code"])


def body(s3: Any, key: str, **more: Any) -> bytes:
    found: bytes = s3.get_object(Bucket="bkt", Key=key, **more)["Body"].read()
    return found


def keys(answer: Any) -> list[str]:
    return [found["Key"] for found in answer.get("Contents", [])]


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


def test_more_keys_than_a_page_holds_are_all_listed(s3, tmp_path):
    names = sorted(f"many/{number}" for number in range(1_100))
    (tmp_path / "home/s3/bkt/many").mkdir()
    for name in names:
        (tmp_path / "home/s3/bkt" / name).touch()
    for operation, size in (("list_objects_v2", None), ("list_objects", 700)):
        pages = s3.get_paginator(operation).paginate(Bucket="bkt", PaginationConfig={"PageSize": size})
        assert [key for page in pages for key in keys(page)] == names


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
    s3.put_object(Bucket="bkt", Key="source", Body=b"source")
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
    def work(number: int) -> None:
        client = session(tmp_path / "home").client("s3")
        for _ in range(60):
            client.put_object(Bucket="bkt", Key=f"a/b/c/{number}", Body=b"x")
            client.list_objects_v2(Bucket="bkt")
            client.delete_object(Bucket="bkt", Key=f"a/b/c/{number}")

    with ThreadPoolExecutor() as pool:
        assert list(pool.map(work, range(3))) == [None] * 3
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


def test_no_url_is_made_that_would_lead_to_aws(s3):
    with pytest.raises(ClientError, match=r"makes no presigned URLs \(s3:GetObject\)"):
        s3.generate_presigned_url("get_object", Params={"Bucket": "bkt", "Key": "k"})
    with pytest.raises(ClientError, match="makes no presigned URLs"):
        s3.generate_presigned_post("bkt", "k")

"""A transform job on AWS: what is stored, asked for and removed; the answers are played here."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.aws.stack_parameters import serving_prefix
from pipeline.cli import images
from pipeline.cli.call import Call
from pipeline.service import transform
from pipeline.service.aws_target import AwsTarget

ANSWER = {"label": "cat", "score": 0.9, "top": [{"label": "cat", "score": 0.9}]}
KEY = "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"


@pytest.fixture
def version(made, register) -> str:
    """An approved version."""
    return register(made["BucketName"])


@pytest.fixture
def service(monkeypatch) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """Plays the job's part when it is created, and keeps the requests about models and jobs."""
    seen: list[tuple[str, dict[str, Any]]] = []
    make = AwsTarget.client

    def watched(self: AwsTarget, name: str) -> Any:
        found = make(self, name)
        if name == "sagemaker":
            events, s3 = found.meta.events, make(self, "s3")
            events.register("provide-client-params.sagemaker", keep, unique_id="keep")
            events.register("after-call.sagemaker.CreateTransformJob", lambda **_: answers(s3), unique_id="answer")
        return found

    def keep(params: dict[str, Any], model: Any, **rest: Any) -> None:
        seen.append((model.name, params))

    def answers(s3: Any) -> None:
        """Every image but one is answered."""
        (request,) = [params for name, params in seen if name == "CreateTransformJob"]
        source = request["TransformInput"]["DataSource"]["S3DataSource"]["S3Uri"]
        bucket, _, prefix = source.removeprefix("s3://").partition("/")
        output = request["TransformOutput"]["S3OutputPath"].removeprefix(f"s3://{bucket}/")
        for item in s3.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]:
            if not item["Key"].endswith("bad.png"):
                key = f"{output}{item['Key'].removeprefix(prefix)}.out"
                s3.put_object(Bucket=bucket, Key=key, Body=json.dumps(ANSWER).encode())

    monkeypatch.setattr(AwsTarget, "client", watched)
    yield seen


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("cat/1.png", "bad.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(name.encode())
    return tmp_path / "photos"


def called(config: Any, monkeypatch: pytest.MonkeyPatch, data: str) -> int:
    monkeypatch.setattr(Call, "config", config)
    return images.transform(Call(target="aws"), data, instances=2, rows_file="labels.jsonl")


def rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("labels.jsonl").read_text().splitlines()]


def test_a_folder_is_stored_transformed_and_read_back(
    client, configured, made, version, service, photos, monkeypatch, capsys
):
    config = configured(aws={"kms_key_arn": KEY, "tags": {"team": "vision"}})
    assert called(config, monkeypatch, "photos") == 1  # as an image has no answer
    names = [name for name, _ in service]
    requests = dict(service)
    assert names.index("CreateModel") < names.index("CreateTransformJob") < names.index("DeleteModel")
    job = requests["CreateTransformJob"]
    name = job["TransformJobName"]
    top = f"s3://{made['BucketName']}/image-classification/transform/{name}"
    own_tags = job.pop("Tags")
    assert {"Key": "team", "Value": "vision"} in own_tags
    text = (Path(__file__).with_name("cases") / "transform_requests.json").read_text()
    known = {"name": name, "top": top, "key": KEY, "role": made["EndpointRoleArn"], "version": version}
    for word, value in known.items():
        text = text.replace(f"{{{word}}}", value)
    expected = json.loads(text)
    expected["CreateModel"]["Tags"] = [*own_tags, *expected["CreateModel"]["Tags"]]
    assert {operation: requests[operation] for operation in expected} == expected
    assert client("sagemaker").list_models()["Models"] == []
    error = f"There is no answer; see the job's log: /aws/sagemaker/TransformJobs {name}"
    assert rows() == [{"image": "bad.png", "error": error}, {"image": "cat/1.png", **ANSWER}]
    assert "2 images, 1 without an answer" in capsys.readouterr().out


def test_a_prefix_of_another_bucket_is_copied_to_where_the_role_may_read(
    client, config, made, version, service, photos, monkeypatch
):
    client("s3").create_bucket(Bucket="pictures")
    for name in ("animals/a b.png", "animals/list.txt", "others/c.png"):
        client("s3").put_object(Bucket="pictures", Key=name, Body=name.encode())
    assert called(config, monkeypatch, "s3://pictures/animals") == 0
    assert rows() == [{"image": "a b.png", **ANSWER}]
    prefix = f"image-classification/transform/{dict(service)['CreateTransformJob']['TransformJobName']}/input/"
    stored = client("s3").list_objects_v2(Bucket=made["BucketName"], Prefix=prefix)["Contents"]
    assert [item["Key"].removeprefix(prefix) for item in stored] == ["a b.png"]


def test_the_name_of_a_job_fits_and_teardown_knows_its_model(client, configured, made):
    long = configured(registry={"model_package_group": "g" * 63})
    job = transform.new_job(AwsTarget(long), long)
    assert len(job.name) <= 63
    assert job.name.startswith(serving_prefix(long))

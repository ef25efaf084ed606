"""What the AWS target stores and makes: each thing once and whole."""

import pytest
from own_account import BUCKET, IMAGE, OWN

from pipeline.aws.infra import ensure_model_group
from pipeline.errors import ServiceError, UsageError
from pipeline.service import executions
from pipeline.service.aws_target import AwsTarget

CODE = "code/a/source.tar.gz"
TREE = "s3://a-bucket-of-ours/image-classification/data/photos-1234"


@pytest.fixture
def target(client, configured) -> AwsTarget:
    """On an account with a bucket of the user's, without a stack."""
    client("s3").create_bucket(Bucket=BUCKET)
    return AwsTarget(configured(aws=OWN))


@pytest.fixture
def folder(tmp_path):
    """Thirty files in two folders."""
    for number in range(30):
        place = tmp_path / "photos" / ("cat" if number % 2 else "dog") / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(bytes([number]))
    return tmp_path / "photos"


def keys(client, prefix: str = "") -> list[str]:
    found = client("s3").list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
    return [item["Key"] for item in found]


def test_a_tree_is_stored_once_and_its_prefix_holds_its_files_only(client, target, folder):
    assert target.put_tree(TREE, folder)
    stored = keys(client, "image-classification/data/photos-1234")
    assert sorted(key.partition("photos-1234/")[2] for key in stored) == sorted(
        str(path.relative_to(folder)) for path in folder.glob("*/*.png")
    )
    assert target.holds(TREE)
    assert not target.put_tree(TREE, folder)


def test_an_upload_that_was_interrupted_is_not_taken_for_whole(client, target, folder, monkeypatch):
    upload = AwsTarget.upload

    def fail(self, path, uri, **named) -> None:
        if path.name.endswith("17.png"):
            raise ServiceError("The network is gone.")
        upload(self, path, uri, **named)

    with monkeypatch.context() as broken, pytest.raises(ServiceError, match=r"^The network is gone\.$"):
        broken.setattr(AwsTarget, "upload", fail)
        target.put_tree(TREE, folder)
    assert keys(client) != []
    assert not target.holds(TREE)
    assert target.put_tree(TREE, folder)
    assert len(keys(client, "image-classification/data/photos-1234/")) == 30


def test_what_was_planted_at_a_name_is_replaced_before_a_job_can_use_it_and_said(client, target, capsys):
    uri, where = f"s3://{BUCKET}/{CODE}", {"Bucket": BUCKET, "Key": CODE}
    assert target.put(f"{uri}.old", b"1")
    assert target.put(uri, b"2")
    assert not target.put(uri, b"2")
    client("s3").put_object(**where, Body=b"2")  # of an earlier version: without a checksum, told by its ETag
    assert not target.put(uri, b"2")
    assert capsys.readouterr().err == ""
    for planted in ({"Body": b"planted"}, {"Body": b"planted", "ChecksumAlgorithm": "SHA256"}):
        client("s3").put_object(**where, **planted)
        assert target.put(uri, b"2")
        assert capsys.readouterr().err == f"{uri} held something else than what belongs there; it was replaced.\n"
        assert target.read(uri) == b"2"
    answer = client("s3").head_object(**where, ChecksumMode="ENABLED")
    assert answer["ChecksumSHA256"] == "1HNeOiZeFu7gP1lxi5tdAwGcB9i2xR+Q2jpmbuwTqzU="


def test_files_of_a_tree_that_are_not_what_was_uploaded_are_uploaded_again(client, target, folder, capsys):
    assert target.put_tree(TREE, folder)
    key = "image-classification/data/photos-1234"
    client("s3").put_object(Bucket=BUCKET, Key=f"{key}/dog/0.png", Body=b"planted")
    client("s3").delete_object(Bucket=BUCKET, Key=f"{key}/dog/2.png")
    client("s3").put_object(Bucket=BUCKET, Key=f"{key}/dog/more.png", Body=b"planted")
    capsys.readouterr()
    assert target.put_tree(TREE, folder)
    again, added = capsys.readouterr().err.splitlines()
    assert again == f"{TREE}/dog/0.png and 1 more differed from what was uploaded; uploaded again."
    assert added.startswith(f"{TREE}/dog/more.png belongs to none of the files of ")
    assert target.read(f"{TREE}/dog/0.png") == b"\x00"
    assert not target.put_tree(TREE, folder)


def test_what_cannot_be_uploaded_is_told_in_a_sentence(target, folder):
    path = folder / "dog" / "0.png"
    with pytest.raises(ServiceError) as caught:
        target.upload(str(path), "s3://no-such-bucket-anywhere/key")
    assert str(caught.value).startswith(f"Could not upload {path}: The specified bucket does not exist (")


def test_upsert_makes_the_model_package_group(client, config, target):
    target.set_up(config)
    assert not ensure_model_group(client, config)


def test_an_unchanged_pipeline_is_read_and_not_updated(target):
    sagemaker, calls = target.client("sagemaker"), []
    sagemaker.meta.events.register("before-parameter-build.sagemaker", lambda model, **rest: calls.append(model.name))
    asked = {"name": "photos", "definition": '{"Steps": []}', "description": "d", "parallel_steps": 4}
    told: list[str] = []

    def upsert(**changes: object) -> tuple[str, list[str]]:
        calls.clear()
        told.clear()
        return executions.upsert(target, **{**asked, **changes}, tell=told.extend), list(calls)

    assert upsert() == ("created", ["DescribePipeline", "CreatePipeline"])
    arn = sagemaker.describe_pipeline(PipelineName="photos")["PipelineArn"]
    assert sagemaker.list_tags(ResourceArn=arn)["Tags"] == [{"Key": "pipeline-stack", "Value": "image-classification"}]
    assert upsert() == ("unchanged", ["DescribePipeline", "ListTags"])
    assert upsert(definition='{"Steps":[]}') == ("unchanged", ["DescribePipeline", "ListTags"])
    assert upsert(parallel_steps=8) == ("updated", ["DescribePipeline", "ListTags", "UpdatePipeline"])
    assert told == ["steps at the same time: 4 -> 8"]
    target.tags = {**target.tags, "team": "vision"}
    assert upsert(parallel_steps=8) == ("updated", ["DescribePipeline", "ListTags", "AddTags"])
    assert told == ["tag team: vision"]
    assert upsert(parallel_steps=8) == ("unchanged", ["DescribePipeline", "ListTags"])


@pytest.mark.parametrize(
    ("own", "role", "job_role"),
    [
        ({}, "PipelineRoleArn", "JobRoleArn"),
        ({"job_role_arn": "arn:aws:iam::123456789012:role/jobs"}, "PipelineRoleArn", "jobs"),
        ({"role_arn": "arn:aws:iam::123456789012:role/all"}, "all", "all"),
    ],
)
def test_jobs_have_the_role_that_is_named_or_the_stacks(client, configured, made, own, role, job_role):
    config = configured(aws={"training_image": IMAGE, "inference_image": IMAGE, **own})
    placement = AwsTarget(config).placement
    expected = [made.get(name, f"arn:aws:iam::123456789012:role/{name}") for name in (role, job_role)]
    assert [placement.role_arn, placement.job_role_arn] == expected
    assert (placement.auto_approves, placement.inputs_function) == (False, "image-classification-inputs")


def test_a_stack_of_an_earlier_version_and_an_approval_that_nobody_gives_are_a_sentence(
    client, configured, monkeypatch
):
    monkeypatch.setattr("pipeline.service.aws_target.known_outputs", lambda *names: {"PipelineRoleArn": "a:b:c:d:e"})
    earlier = r"^Stack 'image-classification' is of an earlier .*: it lacks \w+; bring it"
    with pytest.raises(ServiceError, match=earlier):
        AwsTarget(configured())
    approved = {"registry": {"approval_status": "Approved"}}
    with pytest.raises(UsageError, match=r"^pipeline.yaml: registry.approval_status is Approved, but on AWS every"):
        AwsTarget(configured(**approved))
    with pytest.raises(ServiceError, match="lacks"):
        AwsTarget(configured(**approved, aws={"auto_approve": True}))

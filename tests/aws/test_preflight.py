"""What an account lacks is said before anything is changed, all of it at once."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from moto.servicequotas.models import servicequotas_backends

from pipeline.aws import images
from pipeline.aws.preflight import CHECKS, Wanted, find_problems
from pipeline.service.aws_target import aws_placement

DEFINITION = json.loads((Path(__file__).with_name("cases") / "definition.json").read_text())
ACCOUNT = "123456789012"


@pytest.fixture
def wanted(client: Any, config: Any, made: Any, push_images: Any) -> Wanted:
    """The stack's own, with its images."""
    push_images()
    return Wanted(client, config, aws_placement(config, client), DEFINITION)


def set_quotas(**values: float) -> None:
    """Quotas of the account: `large_for_endpoint_usage` is that of ml.m5.large."""
    names = {f"ml.m5.{name.replace('_', ' ')}": value for name, value in values.items()}
    servicequotas_backends[ACCOUNT]["us-east-1"].quotas = names


def changed(wanted: Wanted, **placed: str) -> Wanted:
    """The same with another placement."""
    return replace(wanted, placement=replace(wanted.placement, **placed))


def test_an_account_that_has_all_is_not_complained_of(wanted):
    set_quotas(xlarge_for_processing_job_usage=3, xlarge_for_training_job_usage=1, large_for_endpoint_usage=1)
    assert find_problems(wanted) == ([], [])


def test_quotas_below_what_a_step_takes_at_a_time_are_named_with_the_step(wanted):
    enough = {"xlarge_for_transform_job_usage": 8, "large_for_processing_job_usage": 0}
    set_quotas(xlarge_for_processing_job_usage=2, xlarge_for_training_job_usage=0, large_for_endpoint_usage=0, **enough)
    problems, _ = find_problems(wanted)
    assert [problem.partition(": ask for more in Service Quotas")[0] for problem in problems] == [
        "The quota 'ml.m5.xlarge for processing job usage' of the account is 2 in us-east-1, but step Prepare takes 3",
        "The quota 'ml.m5.xlarge for training job usage' of the account is 0 in us-east-1, but step Tune takes 1",
        "The quota 'ml.m5.large for endpoint usage' of the account is 0 in us-east-1, but the endpoint takes 1",
    ]


def test_a_quota_that_was_never_changed_is_aws_s_default_and_others_are_not(wanted):
    names = [f"ml.m5.xlarge for {use} job usage" for use in ("processing", "training")]
    servicequotas_backends[ACCOUNT]["us-east-1"].defaults = dict.fromkeys(names, 0.0)
    set_quotas(xlarge_for_processing_job_usage=3)
    [problem] = find_problems(wanted)[0]
    assert problem.startswith(f"The quota '{names[1]}' of the account is 0 in us-east-1, but step Tune takes 1")


def test_bucket_roles_and_images_that_are_not_there_or_elsewhere_are_named_all_at_once(wanted, client):
    client("s3").create_bucket(Bucket="european-bucket", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    repository = wanted.placement.training_image.partition(":")[0]
    elsewhere = f"{ACCOUNT}.dkr.ecr.eu-west-1.amazonaws.com/inference:1"
    placed = {"bucket": "european-bucket", "job_role_arn": f"arn:aws:iam::{ACCOUNT}:role/gone"}
    images_of = {"training_image": f"{repository}:0123", "inference_image": elsewhere}
    problems, _ = find_problems(changed(wanted, **placed, **images_of))
    assert problems[0].startswith("The bucket european-bucket lies in eu-west-1, but aws.region is us-east-1:")
    rest = "\n".join(problems[1:])
    assert f"The role arn:aws:iam::{ACCOUNT}:role/gone does not exist in this account: " in rest
    assert f"The image {repository}:0123 is not in ECR: make it with `run_pipeline.py images build" in rest
    assert "aws.inference_image lies in eu-west-1, but aws.region is us-east-1: push " in rest
    assert len(problems) == 4
    [gone] = find_problems(changed(wanted, bucket="no-such-bucket-anywhere"))[0]
    assert gone.startswith("The bucket no-such-bucket-anywhere does not exist: ")


def test_what_aws_denies_is_passed_over_and_named_and_expired_credentials_are_not(wanted):
    def refusing(code: str) -> Wanted:
        def client(service: str, **named: str) -> Any:
            def refuse(*words: str, **request: Any) -> None:
                raise ClientError({"Error": {"Code": code, "Message": "no"}}, "GetIt")

            return type("Client", (), {"__getattr__": lambda self, name: refuse})()

        return replace(wanted, client=client)

    problems, denied = find_problems(refusing("AccessDeniedException"))
    assert problems == [] and [name.partition(" (")[0] for name in denied] == list(CHECKS)
    with pytest.raises(ClientError):
        find_problems(refusing("ExpiredToken"))


def test_validate_tells_them_and_a_run_with_other_types_is_checked_for_those(cli, client, made, push_images):
    push_images("training")
    said = cli("validate", "--json")
    tag = images.content_tag("inference")
    [problem] = json.loads(said.out)["problems"]
    assert said.status == 2 and f"/inference:{tag} is not in ECR" in problem
    push_images("inference")
    assert cli("validate").status == 0
    servicequotas_backends[ACCOUNT]["us-east-1"].quotas = {"ml.g5.xlarge for training job usage": 0}
    assert cli("validate").status == 0
    said = cli("start", "--param", "TrainingInstanceType=ml.g5.xlarge")
    assert (said.status, said.out) == (1, "")
    assert "The quota 'ml.g5.xlarge for training job usage' of the account is 0" in said.error
    assert client("sagemaker").list_pipelines()["PipelineSummaries"] == []

"""What an account lacks for a pipeline, found before anything is uploaded or changed: all of it at once.

A check that AWS denies to the user is left out, and named. Without that of quotas, a job would wait for two hours for
instances that the account may not have.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from pipeline.aws.cost import endpoint_instances, instances
from pipeline.aws.errors import DENIED
from pipeline.aws.requests import describe, list_all
from pipeline.aws.stack import Client
from pipeline.aws.stack_parameters import ECR_IMAGE
from pipeline.compile.placement import Placement
from pipeline.config.config import Config


@dataclass(frozen=True)
class Wanted:
    """What is to run: a compiled definition whose parameters have their values as defaults, and where."""

    client: Client
    config: Config
    placement: Placement
    definition: dict[str, Any]


def find_problems(wanted: Wanted) -> tuple[list[str], list[str]]:
    """Return a sentence for each thing that the account lacks, and which checks AWS has denied."""
    problems, denied = list[str](), list[str]()
    for what, check in CHECKS.items():
        try:
            problems += check(wanted)
        except ClientError as error:
            if error.response["Error"]["Code"] not in DENIED:
                raise
            denied.append(f"{what} ({error.operation_name})")
    return problems, denied


def bucket_problems(wanted: Wanted) -> Iterator[str]:
    """The bucket is there, and in the region of the jobs, which SageMaker demands."""
    bucket, region = wanted.placement.bucket, wanted.config.aws.region
    found = describe(wanted.client("s3").get_bucket_location, Bucket=bucket)
    if found is None:
        yield f"The bucket {bucket} does not exist: run_pipeline.py infra --target aws makes it."
        return
    place = {None: "us-east-1", "EU": "eu-west-1"}.get(found.get("LocationConstraint"), found.get("LocationConstraint"))
    if place != region:
        yield f"The bucket {bucket} lies in {place}, but aws.region is {region}: change one of them."


def role_problems(wanted: Wanted) -> Iterator[str]:
    """The roles that the pipeline and its jobs take on are there."""
    for arn in dict.fromkeys((wanted.placement.role_arn, wanted.placement.job_role_arn)):
        found = describe(wanted.client("iam").get_role, RoleName=arn.rpartition("/")[2])
        if found is None or found["Role"]["Arn"] != arn:
            remedy = "correct aws.role_arn or aws.job_role_arn, or make the stack's with `run_pipeline.py infra`"
            yield f"The role {arn} does not exist in this account: {remedy}."


def image_problems(wanted: Wanted) -> Iterator[str]:
    """The images are in ECR, in the region of the jobs; of other registries nothing can be told."""
    aws, placement = wanted.config.aws, wanted.placement
    training = ("aws.training_image", aws.training_image, placement.training_image)
    for setting, own, uri in (training, ("aws.inference_image", aws.inference_image, placement.inference_image)):
        image = ECR_IMAGE.fullmatch(uri)
        if image is None:
            continue
        if image["region"] != aws.region:
            yield f"{setting} lies in {image['region']}, but aws.region is {aws.region}: push {uri} there."
            continue
        kind, _, reference = uri[image.end("name") :].partition("sha256:")
        one = {"imageDigest": f"sha256:{reference}"} if reference else {"imageTag": kind.lstrip(":") or "latest"}
        request = {"registryId": image["account"], "repositoryName": image["name"], "imageIds": [one]}
        if not describe(wanted.client("ecr").describe_images, **request):
            built = "make it with `run_pipeline.py images build --target aws`, then `images push`"
            yield f"The image {uri} is not in ECR: {f'push it, or correct {setting}' if own else built}."


def quota_problems(wanted: Wanted) -> Iterator[str]:
    """The account may use as many instances of each type, at a time, as a step or the endpoint takes."""
    needed = dict[str, tuple[int, str]]()  # by the quota's name: how many, and what for
    for each in instances(wanted.definition):
        kind = "training" if each.step_type == "Tuning" else each.step_type.lower()
        name = f"{each.instance_type} for {'spot ' if each.is_spot else ''}{kind} job usage"
        needed[name] = max(needed.get(name, (0, "")), (each.at_once, f"step {each.step}"))
    if fewest := endpoint_instances(wanted.config)[0]:
        needed[f"{wanted.config.deploy.instance_type} for endpoint usage"] = (fewest, "the endpoint")
    values = dict[str, float]()
    for operation in ("list_aws_default_service_quotas", "list_service_quotas"):  # the latter leaves out the unchanged
        for quota in list_all(wanted.client("service-quotas"), operation, ServiceCode="sagemaker"):
            values[quota["QuotaName"]] = quota["Value"]
    for name, (count, user) in needed.items():
        if values.get(name, count) < count:
            yield (
                f"The quota '{name}' of the account is {values[name]:g} in {wanted.config.aws.region}, "
                f"but {user} takes {count}: ask for more in Service Quotas, or choose another instance type or fewer "
                "instances in pipeline.yaml."
            )


CHECKS: dict[str, Callable[[Wanted], Iterator[str]]] = {
    "the bucket's region": bucket_problems,
    "roles": role_problems,
    "images": image_problems,
    "quotas": quota_problems,
}

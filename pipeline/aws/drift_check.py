"""The drift check on AWS: EventBridge Scheduler makes a Processing job of steps/drift.py, as drift.schedule says."""

import json
from collections.abc import Mapping
from typing import Any

from pipeline.aws.images import content_tag
from pipeline.compile.bundle import ARCHIVE, PROCESSING, bundle, processing_command
from pipeline.config.config import Config
from pipeline.config.sections import LOCAL_STORAGE

SCRIPT = "drift.py"
READ = {"S3DataType": "S3Prefix", "S3InputMode": "File"}
VARIANT = "AllTraffic"  # as steps/deploy.py names it


def drift_parameters(config: Config, made: Mapping[str, str]) -> dict[str, str]:
    """Return app.yaml's parameter that holds the job's request, empty without a schedule; `made` is what base gives."""
    request = job_request(config, made) if config.drift.schedule else {}
    return {"DriftJob": json.dumps(request, separators=(",", ":"))}


def job_request(config: Config, made: Mapping[str, str]) -> dict[str, Any]:
    """Return CreateProcessingJob's request, in which Scheduler fills what stands in angle brackets.

    Source: EventBridge Scheduler user guide, "Adding context attributes" and "Using universal targets".
    """
    aws, section, key = config.aws, config.evaluation, config.aws.kms_key_arn
    bucket = f"s3://{made['BucketName']}"
    top, code = f"{bucket}/{config.pipeline.name}", f"{bucket}/{bundle(SCRIPT).key(config.pipeline.name)}/{ARCHIVE}"
    endpoint = config.deploy.endpoint_name
    options = {
        "champion-dir": f"{PROCESSING}/input/champion",
        "capture-uri": f"{top}/capture/{endpoint}/{VARIANT}",
        "report-dir": f"{PROCESSING}/output/drift",
        "namespace": f"{aws.project}/drift",
        "endpoint-name": endpoint,
    }
    instance_type = section.instance_type
    cluster = {"InstanceCount": 1, "InstanceType": instance_type, "VolumeSizeInGB": section.volume_size_gb}
    if key and not LOCAL_STORAGE.match(instance_type):
        cluster["VolumeKmsKeyId"] = key
    place = f"{top}/drift/<aws.scheduler.scheduled-time>"
    report = {"S3Uri": place, "LocalPath": options["report-dir"], "S3UploadMode": "EndOfJob"}
    image = aws.training_image or f"{made.get('TrainingRepositoryUri', 'made-by-base')}:{content_tag('training')}"
    vpc = {"Subnets": list(aws.vpc.subnet_ids), "SecurityGroupIds": list(aws.vpc.security_group_ids)}
    return {
        "ProcessingJobName": f"{aws.project}-drift-<aws.scheduler.execution-id>",
        "RoleArn": made["JobRoleArn"],
        "AppSpecification": {
            "ImageUri": image,
            "ContainerEntrypoint": processing_command(SCRIPT),
            "ContainerArguments": [f"--{name}={value}" for name, value in options.items()],
        },
        "ProcessingResources": {"ClusterConfig": cluster},
        "StoppingCondition": {"MaxRuntimeInSeconds": section.max_runtime_seconds},
        "Environment": {"AWS_DEFAULT_REGION": aws.region},
        "ProcessingInputs": [
            {"InputName": name, "S3Input": {"S3Uri": uri, "LocalPath": f"{PROCESSING}/input/{name}", **READ}}
            for name, uri in (("code", code), ("champion", f"{top}/champion/"))
        ],
        "ProcessingOutputConfig": {
            "Outputs": [{"OutputName": "drift", "S3Output": report}],
            **({"KmsKeyId": key} if key else {}),
        },
        **({"NetworkConfig": {"VpcConfig": vpc}} if aws.vpc.subnet_ids else {}),
    }

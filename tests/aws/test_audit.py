"""`audit` of an execution on AWS: PrepareData's outputs are copied from S3."""

from typing import Any

import pytest

from pipeline.cli.reports import PREPARED, prepared_images
from pipeline.errors import ServiceError
from pipeline.service.aws_target import AwsTarget

BUCKET, JOB, ROLE = "audited-bucket", "pipelines-abc-PrepareData-1", "arn:aws:iam::123456789012:role/pipeline"
ARN = "arn:aws:sagemaker:us-east-1:123456789012:pipeline/p/execution/abc"
STEP = {
    "StepName": "PrepareData",
    "StepStatus": "Succeeded",
    "Metadata": {"ProcessingJob": {"Arn": f"arn:aws:sagemaker:us-east-1:123456789012:processing-job/{JOB}"}},
}


def test_what_prepare_data_wrote_is_copied_and_what_is_gone_is_named(
    client: Any, configured: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3, image = client("s3"), "123456789012.dkr.ecr.us-east-1.amazonaws.com/any:1"
    s3.create_bucket(Bucket=BUCKET)
    for name in PREPARED:
        s3.put_object(Bucket=BUCKET, Key=f"e/{name}/file", Body=name.encode())
    s3.put_object(Bucket=BUCKET, Key="e/manifest/samples/0.png", Body=b"not needed")
    places = {name: f"s3://{BUCKET}/e/{name}" for name in PREPARED}
    how = {"LocalPath": "/o", "S3UploadMode": "EndOfJob"}
    outputs = [{"OutputName": name, "S3Output": {"S3Uri": uri, **how}} for name, uri in places.items()]
    client("sagemaker").create_processing_job(
        ProcessingJobName=JOB,
        ProcessingResources={"ClusterConfig": {"InstanceCount": 1, "InstanceType": "ml.m5.large", "VolumeSizeInGB": 1}},
        AppSpecification={"ImageUri": image},
        RoleArn=ROLE,
        ProcessingOutputConfig={"Outputs": outputs},
    )
    monkeypatch.setattr("pipeline.service.executions.steps", lambda target, arn: [STEP])
    aws = {"role_arn": ROLE, "training_image": image, "inference_image": image, "bucket": BUCKET}
    target = AwsTarget(configured(aws=aws))
    with prepared_images(target, ARN) as folder:
        found = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        assert found == {f"{name}/file": name.encode() for name in PREPARED}
    assert not folder.exists()
    s3.delete_object(Bucket=BUCKET, Key="e/test/file")
    gone = rf"^What execution abc has prepared, {places['test']}, is gone; "
    with pytest.raises(ServiceError, match=gone), prepared_images(target, ARN):
        pass

"""boto3: a training job whose log is followed, an endpoint that answers, and what is refused.

The environment alone leads it to this machine: AWS_ENDPOINT_URL, a region and any credentials.
"""

import io
import json
import tarfile
import time
from pathlib import Path

import boto3
from botocore.exceptions import ClientError, WaiterError

SOURCE = Path(__file__).with_name("source")
ROLE = "arn:aws:iam::000000000000:role/any"
IMAGE = "000000000000.dkr.ecr.us-east-1.amazonaws.com/any:1"  # any image means the environment of the server
EACH_SECOND = {"Delay": 1}
sagemaker, s3, logs = (boto3.client(service) for service in ("sagemaker", "s3", "logs"))

# code in script mode, and data
packed = io.BytesIO()
with tarfile.open(fileobj=packed, mode="w:gz") as archive:
    archive.add(SOURCE, ".")
s3.put_object(Bucket="work", Key="code/sourcedir.tar.gz", Body=packed.getvalue())
s3.upload_file("rows.csv", "work", "rows/rows.csv")
hyperparameters = {
    "factor": "3",
    "sagemaker_program": "train.py",
    "sagemaker_submit_directory": "s3://work/code/sourcedir.tar.gz",
}
request = {
    "AlgorithmSpecification": {
        "TrainingImage": IMAGE,
        "TrainingInputMode": "File",
        "MetricDefinitions": [{"Name": "loss", "Regex": "loss=(.*)"}],
    },
    "RoleArn": ROLE,
    "HyperParameters": hyperparameters,
    "InputDataConfig": [
        {
            "ChannelName": "train",
            "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://work/rows"}},
        }
    ],
    "OutputDataConfig": {"S3OutputPath": "s3://work/models"},
    "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
    "StoppingCondition": {"MaxRuntimeInSeconds": 60},
}
sagemaker.create_training_job(TrainingJobName="by-hand", **request)
try:
    sagemaker.create_training_job(TrainingJobName="by-hand", **request)
except ClientError as problem:
    assert problem.response["Error"]["Code"] == "ResourceInUse", problem


def lines_of(name):
    """Yield the log's lines as they come, until the job has ended."""
    stream = {"logGroupName": "/aws/sagemaker/TrainingJobs", "logStreamName": f"{name}/algo-1", "startFromHead": True}
    token, status = {}, "InProgress"
    while status in ("InProgress", "Stopping"):
        status = sagemaker.describe_training_job(TrainingJobName=name)["TrainingJobStatus"]
        try:
            answer = logs.get_log_events(**stream, **token)
        except logs.exceptions.ResourceNotFoundException:  # it has not begun
            answer = {"events": []}
        token = {"nextToken": answer["nextForwardToken"]} if answer["events"] else token
        yield from (event["message"] for event in answer["events"])
        time.sleep(0.1)


assert list(lines_of("by-hand")) == ["loss=0.000"]
job = sagemaker.describe_training_job(TrainingJobName="by-hand")
assert (job["TrainingJobStatus"], job["FinalMetricDataList"][0]["Value"]) == ("Completed", 0)

# one that does not end is stopped once it has said something
endless = {
    "TrainingImage": IMAGE,
    "TrainingInputMode": "File",
    "ContainerEntrypoint": ["sh", "-c", "echo on; sleep 60"],
}
sagemaker.create_training_job(TrainingJobName="endless", **{**request, "AlgorithmSpecification": endless})
assert next(lines_of("endless")) == "on"
sagemaker.stop_training_job(TrainingJobName="endless")
sagemaker.get_waiter("training_job_completed_or_stopped").wait(TrainingJobName="endless", WaiterConfig=EACH_SECOND)
assert sagemaker.describe_training_job(TrainingJobName="endless")["TrainingJobStatus"] == "Stopped"

# a model, an endpoint, an answer
container = {"Image": IMAGE, "ModelDataUrl": job["ModelArtifacts"]["S3ModelArtifacts"]}
sagemaker.create_model(ModelName="triple", PrimaryContainer=container, ExecutionRoleArn=ROLE)
variant = {"VariantName": "All", "ModelName": "triple", "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
sagemaker.create_endpoint_config(EndpointConfigName="triple", ProductionVariants=[variant])
sagemaker.create_endpoint(EndpointName="triple", EndpointConfigName="triple")
sagemaker.get_waiter("endpoint_in_service").wait(EndpointName="triple", WaiterConfig=EACH_SECOND)
answer = boto3.client("sagemaker-runtime").invoke_endpoint(EndpointName="triple", Body=b"1\n2", ContentType="text/csv")
assert answer["Body"].read() == b"3.0\n6.0"
sagemaker.delete_endpoint(EndpointName="triple")
sagemaker.get_waiter("endpoint_deleted").wait(EndpointName="triple", WaiterConfig=EACH_SECOND)

# what cannot run on this machine is refused in a sentence
built_in = {"TrainingImage": "683313688378.dkr.ecr.us-east-1.amazonaws.com/sagemaker-xgboost:1.7-1"}
try:
    more = {"AlgorithmSpecification": {**built_in, "TrainingInputMode": "File"}, "HyperParameters": {}}
    sagemaker.create_training_job(TrainingJobName="built-in", **{**request, **more})
except ClientError as problem:
    assert "use script mode" in str(problem), problem
else:
    raise AssertionError("it was taken")

# the waiters know a job that fails
wrong = {**request, "HyperParameters": {**hyperparameters, "factor": "1000"}}
sagemaker.create_training_job(TrainingJobName="wrong", **wrong)
try:
    sagemaker.get_waiter("training_job_completed_or_stopped").wait(TrainingJobName="wrong", WaiterConfig=EACH_SECOND)
except WaiterError as problem:
    assert problem.last_response["FailureReason"] == "AlgorithmError: the factor 1000 is far off, exit code: 1"
print(json.dumps([job["TrainingJobName"] for job in sagemaker.list_training_jobs()["TrainingJobSummaries"]]))

"""The SageMaker SDK v3: trains, searches, processes, transforms, registers and runs a pipeline.

It is the SDK as it is installed; the environment alone leads it to this machine (docs/studio.md).
"""

from pathlib import Path

from sagemaker.core.helper.session_helper import Session
from sagemaker.core.model_registry import create_model_package_from_containers
from sagemaker.core.parameter import ContinuousParameter
from sagemaker.core.processing import ScriptProcessor
from sagemaker.core.resources import Model, ModelPackage, ModelPackageGroup
from sagemaker.core.shapes import (
    ContainerDefinition,
    ProcessingInput,
    ProcessingOutput,
    ProcessingS3Input,
    ProcessingS3Output,
)
from sagemaker.core.transformer import Transformer
from sagemaker.core.utils.exceptions import FailedStatusError
from sagemaker.core.workflow.pipeline_context import PipelineSession
from sagemaker.mlops.workflow.pipeline import Pipeline
from sagemaker.mlops.workflow.steps import ProcessingStep
from sagemaker.train import ModelTrainer
from sagemaker.train.configs import Compute, InputData, SourceCode
from sagemaker.train.tuner import HyperparameterTuner

SOURCE = Path(__file__).with_name("source")
ROLE = "arn:aws:iam::000000000000:role/any"
IMAGE = "000000000000.dkr.ecr.us-east-1.amazonaws.com/any:1"  # any image means the environment of the server
MACHINE = {"instance_type": "ml.m5.large", "instance_count": 1}
EACH_SECOND = {"WaiterConfig": {"Delay": 1}}

session = Session()
rows = session.upload_data("rows.csv", key_prefix="rows")
bucket = session.default_bucket()
assert bucket == "sagemaker-us-east-1-000000000000"


def trainer(**more):
    code = SourceCode(source_dir=str(SOURCE), entry_script="train.py")
    return ModelTrainer(training_image=IMAGE, source_code=code, compute=Compute(**MACHINE), role=ROLE, **more)


channel = [InputData(channel_name="train", data_source=rows)]

# a search, and a training job that fails, which run meanwhile
search = HyperparameterTuner(
    trainer(base_job_name="search"),
    "loss",
    {"factor": ContinuousParameter(1.0, 5.0)},
    metric_definitions=[{"Name": "loss", "Regex": "loss=(.*)"}],
    objective_type="Minimize",
    max_jobs=2,
    max_parallel_jobs=2,
)
search.tune(inputs=channel, wait=False)
wrong = trainer(base_job_name="wrong", hyperparameters={"factor": 1000})
wrong.train(input_data_config=channel, wait=False)

# a training job that is awaited, and whose log is shown while it runs
train = trainer(base_job_name="by-hand", hyperparameters={"factor": 3})
train.train(input_data_config=channel)
job = train._latest_training_job
assert job.training_job_status == "Completed"
artifacts = job.model_artifacts.s3_model_artifacts

search.wait()
print("the best trial:", search.best_training_job())
try:
    wrong._latest_training_job.wait()
except FailedStatusError as problem:
    assert "Failure Reason: AlgorithmError" in str(problem) and "exit code: 1" in str(problem), problem

# a processing job
processor = ScriptProcessor(image_uri=IMAGE, command=["python3"], role=ROLE, sagemaker_session=session, **MACHINE)
place = {"s3_data_type": "S3Prefix", "s3_input_mode": "File"}
given = ProcessingS3Input(s3_uri=rows, local_path="/opt/ml/processing/rows", **place)
made = ProcessingS3Output(
    s3_uri=f"s3://{bucket}/counted", local_path="/opt/ml/processing/counted", s3_upload_mode="EndOfJob"
)
how = {
    "code": str(SOURCE / "count.py"),
    "inputs": [ProcessingInput(input_name="rows", s3_input=given)],
    "outputs": [ProcessingOutput(output_name="counted", s3_output=made)],
}
processor.run(**how, wait=False)
name = processor.latest_job.processing_job_name
session.sagemaker_client.get_waiter("processing_job_completed_or_stopped").wait(ProcessingJobName=name, **EACH_SECOND)
assert session.read_s3_file(bucket, "counted/count.txt") == "3"

# a batch transform
Model.create(
    model_name="factor",
    primary_container=ContainerDefinition(image=IMAGE, model_data_url=artifacts),
    execution_role_arn=ROLE,
)
numbers = session.upload_string_as_file_body("1\n2\n", bucket, "numbers/a.csv")
transformer = Transformer("factor", output_path=f"s3://{bucket}/tripled", sagemaker_session=session, **MACHINE)
transformer.transform(f"s3://{bucket}/numbers", content_type="text/csv", wait=False)
name = transformer.latest_transform_job.transform_job_name
session.sagemaker_client.get_waiter("transform_job_completed_or_stopped").wait(TransformJobName=name, **EACH_SECOND)
assert session.read_s3_file(bucket, "tripled/a.csv.out") == "3.0\n6.0"

# the registry
ModelPackageGroup.create(model_package_group_name="factors")
created = create_model_package_from_containers(
    session,
    containers=[{"Image": IMAGE, "ModelDataUrl": artifacts}],
    content_types=["text/csv"],
    response_types=["text/csv"],
    model_package_group_name="factors",
    approval_status="PendingManualApproval",
)
package = ModelPackage.get(created["ModelPackageArn"])
assert package.model_approval_status == "PendingManualApproval"
package.update(model_approval_status="Approved", approval_description="It triples.")
assert package.refresh().model_approval_status == "Approved"
assert [each.model_package_version for each in ModelPackage.get_all(model_package_group_name="factors")] == [1]

# a pipeline
processor.sagemaker_session = PipelineSession()
step = ProcessingStep(name="Count", step_args=processor.run(**how))
pipeline = Pipeline(name="counting", steps=[step], sagemaker_session=processor.sagemaker_session)
pipeline.upsert(role_arn=ROLE)
execution = pipeline.start()
execution.wait(delay=1)
assert execution.describe()["PipelineExecutionStatus"] == "Succeeded"
assert [each["StepStatus"] for each in execution.list_steps()] == ["Succeeded"]
print("artifacts:", artifacts)

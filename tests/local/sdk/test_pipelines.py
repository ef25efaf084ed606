"""Pipelines of the stock SDK, judged by what they computed."""

import json
import time
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.local.sdk.conftest import ROLE, Outcome, Sdk


@pytest.fixture(scope="module")
def run(sdk: Sdk) -> Outcome:
    """Everything, once."""
    from tests.local.sdk.pipelines import everything

    pipeline = everything(sdk)
    pipeline.upsert(role_arn=ROLE)
    return sdk.run(pipeline)


def chosen(run: Outcome, names: list[str], **parameters: Any) -> Outcome:
    """Some steps again, on the values of that run."""
    from sagemaker.mlops.workflow.parallelism_config import ParallelismConfiguration
    from sagemaker.mlops.workflow.selective_execution_config import SelectiveExecutionConfig

    source = run.execution.arn
    return run.sdk.run(
        run.pipeline,
        parameters=parameters,
        selective_execution_config=SelectiveExecutionConfig(selected_steps=names, source_pipeline_execution_arn=source),
        parallelism_config=ParallelismConfiguration(max_parallel_execution_steps=1).to_request(),
    )


def test_every_step_has_run_but_those_of_the_other_branches(run: Outcome) -> None:
    names = "Prepare Train Evaluate Check Register Model Transform Config Endpoint Tune TakeBest Call Outer Inner Small"
    others = "Reduce TakeSum Framework First Total"
    assert run.statuses == dict.fromkeys(f"{names} {others}".split(), "Succeeded")


def test_a_good_model_is_registered_with_what_was_computed(run: Outcome) -> None:
    metric = json.loads(run.output("Evaluate", "evaluation.json"))["regression_metrics"]["mse"]
    assert metric["rows"] == 50
    assert 0 <= metric["value"] < 0.01
    assert run.steps["Check"]["Metadata"]["Condition"]["Outcome"] == "True"
    package, archive = run.job("Register"), run.job("Train")["ModelArtifacts"]["S3ModelArtifacts"]
    assert (package["ModelApprovalStatus"], package["ModelPackageVersion"]) == ("Approved", 1)
    [container] = package["InferenceSpecification"]["Containers"]
    assert container["ModelDataUrl"] == run.job("Model")["PrimaryContainer"]["ModelDataUrl"] == archive
    assert len(run.output("Prepare", "train.csv").splitlines()) == 150


def test_a_model_is_served_to_a_transform_job_and_by_an_endpoint(sdk: Sdk, run: Outcome) -> None:
    assert sdk.read("s3://numbers/out/a.csv.out") == "1,30.0\n3,70.0\n"
    runtime = sdk.aws.client("sagemaker-runtime")
    answer = runtime.invoke_endpoint(EndpointName="sums", Body=b"5,6", ContentType="text/csv")
    assert answer["Body"].read() == b"110.0"
    sdk.aws.client("sagemaker").delete_endpoint(EndpointName="sums")


def test_the_best_of_a_search_is_taken_up_by_its_place_in_s3(run: Outcome) -> None:
    assert run.output("TakeBest", "x.txt") == "3.0"
    assert run.job("Tune")["BestTrainingJob"]["FinalHyperParameterTuningJobObjectiveMetric"]["Value"] == 1.0


def test_processes_of_torchrun_packages_and_functions_compute_what_they_should(run: Outcome) -> None:
    assert run.output("TakeSum", "x.txt") == "3.0"
    assert run.output("Framework", "v.txt") == "from beside packaging"
    assert (run.execution.result("First"), run.execution.result("Total")) == (3, 13)


def test_jobs_have_names_of_our_own(run: Outcome) -> None:
    assert run.job("TakeSum")["ProcessingJobName"].startswith("my-takesum-")
    assert run.job("Train")["TrainingJobName"].startswith("pipelines-")  # the SDK drops a ModelTrainer's own name


def test_the_logs_of_the_jobs_are_read_as_on_the_service(sdk: Sdk, run: Outcome) -> None:
    from sagemaker.core.helper.session_helper import _flush_log_streams

    name, lines, logs = run.job("Train")["TrainingJobName"], [], sdk.aws.client("logs")
    show = lambda index, text: lines.append(text)  # noqa: E731
    _flush_log_streams([], 1, logs, "/aws/sagemaker/TrainingJobs", name, {}, False, show)
    assert any("train:rows=150;" in line for line in lines)


def test_a_function_decides_nested_conditions(sdk: Sdk, run: Outcome) -> None:
    assert run.output("Small", "note.txt") == "Small 4"
    assert sdk.read("s3://made/by/lambda") == "{'n': 2}"
    names = ["Call", "Outer", "Inner", "Big", "Small"]
    assert chosen(run, names, N=5).output("Big", "note.txt") == "Big 10"
    assert set(chosen(run, names, N=1).steps) == {"Call", "Outer"}


def test_a_bad_model_fails_with_the_threshold_on_the_values_of_the_earlier_execution(run: Outcome) -> None:
    again = chosen(run, ["Evaluate", "Check", "Register", "TooBad"], MseThreshold=-1.0)
    assert again.statuses["TooBad"] == "MSE above -1.0"
    assert "Register" not in again.steps
    result = again.steps["Prepare"]["SelectiveExecutionResult"]
    assert result == {"SourcePipelineExecutionArn": run.execution.arn}
    described = again.execution.describe()
    assert described["PipelineExecutionStatus"] == "Failed"
    assert {"StepName": "Evaluate"} in described["SelectiveExecutionConfig"]["SelectedSteps"]


def test_what_is_unchanged_is_reused(run: Outcome) -> None:
    again = chosen(run, ["Prepare", "Train", "Evaluate"])
    assert [name for name in sorted(again.steps) if "CacheHitResult" in again.steps[name]] == ["Prepare", "Train"]


def test_a_running_execution_is_stopped(sdk: Sdk) -> None:
    from tests.local.sdk.pipelines import slow

    pipeline = slow(sdk)
    pipeline.upsert(role_arn="some-role")
    assert pipeline.describe()["RoleArn"] == "arn:aws:iam::000000000000:role/some-role"
    execution = pipeline.start()
    while not execution.list_steps():
        time.sleep(0.1)
    execution.stop()
    while execution.describe()["PipelineExecutionStatus"] == "Stopping":
        time.sleep(0.1)
    assert execution.describe()["PipelineExecutionStatus"] == "Stopped"
    assert [step["StepStatus"] for step in execution.list_steps()] == ["Stopped"]
    pipeline.delete()


def test_what_does_not_run_here_is_refused_by_name_before_anything_runs(sdk: Sdk) -> None:
    from tests.local.sdk.pipelines import unrunnable

    for pipeline, said in zip(unrunnable(sdk), ("'Ask'.*Callback", "'Boost'.*sagemaker-xgboost"), strict=True):
        with pytest.raises(ClientError, match=said):
            pipeline.upsert(role_arn=ROLE)
            pipeline.start()
    assert not sdk.aws.client("sagemaker").list_processing_jobs(NameContains="Before")["ProcessingJobSummaries"]

"""An execution of every step type, described to real boto3 clients, which parse the answers."""

import json
from datetime import datetime

from pipeline.local.store.storage import Storage
from tests.local.sagemaker.home import LAMBDA, refusal


def test_the_run_went_to_the_end_that_the_definition_says(home):
    names = ["Process", "Train", "Tune", "Model", "Register", "Transform", "Hello", "Check"]
    assert home.report.statuses == {**dict.fromkeys(names, "Succeeded"), "No": "it is so"}
    assert home.report.document["status"] == "Failed"


def test_an_execution_is_described(home):
    arn = home.execution()
    found = home.sagemaker.describe_pipeline_execution(PipelineExecutionArn=arn)
    assert found["PipelineExecutionStatus"] == "Failed"
    assert found["FailureReason"] == "Step failure: One or multiple steps failed."
    assert isinstance(found["CreationTime"], datetime)
    assert found["CreationTime"] <= found["LastModifiedTime"]
    [summary] = home.sagemaker.list_pipeline_executions(PipelineName="everything")["PipelineExecutionSummaries"]
    assert summary["PipelineExecutionArn"] == arn
    assert isinstance(summary["StartTime"], datetime)
    assert summary["PipelineExecutionFailureReason"] == found["FailureReason"]
    text = home.sagemaker.describe_pipeline_definition_for_execution(PipelineExecutionArn=arn)["PipelineDefinition"]
    assert json.loads(text) == home.definition
    given = home.sagemaker.list_pipeline_parameters_for_execution(PipelineExecutionArn=arn)["PipelineParameters"]
    assert given == [{"Name": "Branch", "Value": "yes"}]


def test_steps_are_listed_newest_first_with_what_they_made(home):
    arn = home.execution()
    newest_first = home.sagemaker.list_pipeline_execution_steps(PipelineExecutionArn=arn)["PipelineExecutionSteps"]
    ascending = {"PipelineExecutionArn": arn, "SortOrder": "Ascending", "PaginationConfig": {"PageSize": 4}}
    pages = list(home.sagemaker.get_paginator("list_pipeline_execution_steps").paginate(**ascending))
    assert [len(page["PipelineExecutionSteps"]) for page in pages] == [4, 4, 1]
    assert [step for page in pages for step in page["PipelineExecutionSteps"]] == newest_first[::-1]
    steps = home.steps()
    assert steps["Process"]["StepDisplayName"] == "A step"
    assert steps["Process"]["StartTime"] <= steps["Process"]["EndTime"]
    assert steps["Process"]["AttemptCount"] == 1
    assert steps["No"]["FailureReason"] == "it is so"
    assert steps["No"]["Metadata"] == {"Fail": {"ErrorMessage": "it is so"}}
    assert steps["Check"]["Metadata"] == {"Condition": {"Outcome": "True"}}
    assert steps["Hello"]["Metadata"]["Lambda"] == {
        "Arn": LAMBDA,
        "OutputParameters": [{"Name": "pipelines", "Value": "everything"}],
    }
    assert steps["Register"]["Metadata"]["RegisterModel"]["Arn"].endswith(":model-package/group/1")
    assert steps["Model"]["Metadata"]["Model"]["Arn"].startswith("arn:aws:sagemaker:us-east-1:000000000000:model/")


def test_jobs_are_described(home):
    client = home.sagemaker
    processing = client.describe_processing_job(ProcessingJobName=home.job("Process", "ProcessingJob"))
    assert processing["ProcessingJobStatus"] == "Completed"
    assert processing["ProcessingStartTime"] <= processing["ProcessingEndTime"]
    training = client.describe_training_job(TrainingJobName=home.job("Train", "TrainingJob"))
    assert training["TrainingJobStatus"] == "Completed"
    assert training["ModelArtifacts"]["S3ModelArtifacts"].startswith("s3://bucket/models/")
    assert [(m["MetricName"], m["Value"]) for m in training["FinalMetricDataList"]] == [("acc", 0.75)]
    assert isinstance(training["FinalMetricDataList"][0]["Timestamp"], datetime)
    transform = client.describe_transform_job(TransformJobName=home.job("Transform", "TransformJob"))
    assert transform["TransformJobStatus"] == "Completed"
    assert json.loads(Storage(home.state).read("s3://b/out/one.txt.out"))["model"] == "served"


def test_a_search_and_its_trials_are_described(home):
    client, name = home.sagemaker, home.job("Tune", "TuningJob")
    search = client.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
    assert search["HyperParameterTuningJobStatus"] == "Completed"
    assert search["TrainingJobStatusCounters"]["Completed"] == 2
    best = search["BestTrainingJob"]
    assert best["FinalHyperParameterTuningJobObjectiveMetric"]["Value"] == 0.75
    assert 0.1 <= float(best["TunedHyperParameters"]["lr"]) <= 0.9
    request = {"HyperParameterTuningJobName": name}
    trials = client.list_training_jobs_for_hyper_parameter_tuning_job(**request)["TrainingJobSummaries"]
    assert len(trials) == 2
    assert best["TrainingJobName"] in [trial["TrainingJobName"] for trial in trials]
    pager = client.get_paginator("list_training_jobs_for_hyper_parameter_tuning_job")
    pages = pager.paginate(**request, PaginationConfig={"PageSize": 1})
    assert [page["TrainingJobSummaries"] for page in pages] == [[trial] for trial in trials]
    listed = client.list_training_jobs()["TrainingJobSummaries"]
    assert len(listed) == 3
    assert all(isinstance(job["CreationTime"], datetime) for job in listed)
    only = client.list_training_jobs(NameContains=name, MaxResults=1)
    assert (len(only["TrainingJobSummaries"]), "NextToken" in only) == (1, True)


def test_the_logs_of_a_job_are_streams(home):
    logs, job = home.session.client("logs"), home.job("Process", "ProcessingJob")
    group = {"logGroupName": "/aws/sagemaker/ProcessingJobs"}
    [stream] = logs.describe_log_streams(**group, logStreamNamePrefix=f"{job}/")["logStreams"]
    assert stream["logStreamName"] == f"{job}/algo-1"
    assert logs.describe_log_streams(**group)["logStreams"] == [stream]
    which = {**group, "logStreamName": stream["logStreamName"], "startFromHead": True}
    events = logs.get_log_events(**which)
    assert [event["message"] for event in events["events"]] == ["hello", "world"]
    assert logs.get_log_events(**which, nextToken=events["nextForwardToken"])["events"] == []
    assert refusal(logs.get_log_events, **which, nextToken="soon")[0] == "InvalidParameterException"
    created = home.sagemaker.describe_processing_job(ProcessingJobName=job)["CreationTime"]
    time = events["events"][0]["timestamp"]
    assert abs(time - created.timestamp() * 1000) < 1
    pages = logs.get_paginator("filter_log_events").paginate(**group, logStreamNamePrefix=job)
    assert [event["message"] for page in pages for event in page["events"]] == ["hello", "world"]
    assert logs.filter_log_events(**group, startTime=time + 1)["events"] == []
    assert logs.describe_log_streams(**group, logStreamNamePrefix="nobody/")["logStreams"] == []

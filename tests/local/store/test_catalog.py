"""Lists of many records: pages by index, and homes of the last release, also when their renewal is cut short."""

import base64
import json
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from pipeline.local.sagemaker.api import LocalApi
from pipeline.local.sagemaker.session import LocalClient
from pipeline.local.store.state import State

VERSION_1 = """
CREATE TABLE resources (
  kind TEXT, name TEXT, document TEXT NOT NULL, created REAL NOT NULL, PRIMARY KEY (kind, name));
CREATE TABLE executions (
  arn TEXT PRIMARY KEY, pipeline TEXT NOT NULL, status TEXT NOT NULL, created REAL NOT NULL, document TEXT NOT NULL);
CREATE TABLE steps (execution TEXT, name TEXT, document TEXT NOT NULL, PRIMARY KEY (execution, name));
CREATE TABLE digests (path TEXT PRIMARY KEY, stamp TEXT NOT NULL, digest TEXT NOT NULL);
PRAGMA journal_mode=WAL;
PRAGMA user_version=1;
"""
ARN = "arn:aws:sagemaker:us-east-1:000000000000:pipeline/p"
BEYOND = [
    base64.urlsafe_b64encode(json.dumps(key).encode()).decode() for key in ([10**400, 1], ["\ud800", 1], [1, 2**70])
]
OPEN = "import sys, pathlib; from pipeline.local.store.state import State; State(pathlib.Path(sys.argv[1]))"


def job(number: int, **more: object) -> dict[str, object]:
    name = f"job-{number:05}"
    times = {"CreationTime": 1000.0 + number, "LastModifiedTime": 2000.0 + number}
    status = "Failed" if number % 10 == 0 else "Completed"
    return {"TrainingJobName": name, "TrainingJobArn": name, "TrainingJobStatus": status, **times, **more}


def home_of_version_1(home: Path, jobs: int) -> None:
    home.mkdir()
    definition = {"Version": "2020-12-01", "Parameters": [], "Steps": []}
    with sqlite3.connect(home / "state.db") as file:
        file.executescript(VERSION_1)
        rows = [("TrainingJob", f"job-{n:05}", json.dumps(job(n, Text="x" * 2000)), float(n)) for n in range(jobs)]
        pipeline = {"PipelineName": "p", "PipelineArn": ARN, "CreationTime": 1.0, "PipelineStatus": "Active",
                    "PipelineDefinition": json.dumps(definition), "LastModifiedTime": 2.0}  # fmt: skip
        rows.append(("Pipeline", "p", json.dumps(pipeline), 1.0))
        file.executemany("INSERT INTO resources VALUES (?, ?, ?, ?)", rows)
        for number in range(3):
            arn = f"{ARN}/execution/{number:012}"
            document = {"PipelineExecutionArn": arn, "PipelineName": "p", "PipelineArn": ARN, "Parameters": {},
                        "PipelineExecutionStatus": "Succeeded", "CreationTime": 5.0 + number,
                        "Definition": definition}  # fmt: skip
            file.execute(
                "INSERT INTO executions VALUES (?, 'p', 'Succeeded', ?, ?)", (arn, 5.0 + number, json.dumps(document))
            )
    file.close()


def names(answer: dict[str, list[dict[str, str]]], member: str = "TrainingJobSummaries") -> list[str]:
    return [each["TrainingJobName"] for each in answer[member]]


def test_a_home_of_the_last_release_opens_also_when_its_renewal_was_killed_or_is_done_by_several(
    tmp_path: Path,
) -> None:
    home = tmp_path / "home"
    home_of_version_1(home, jobs=8_000)
    killed = subprocess.Popen([sys.executable, "-c", OPEN, home])
    while not (home / "state.lock").exists():
        time.sleep(0.005)
    time.sleep(0.05)
    killed.kill()
    killed.wait()
    old = sqlite3.connect(home / "state.db")  # a runner of the last release goes on writing
    assert old.execute("PRAGMA user_version").fetchone() == (1,)
    for opening in [subprocess.Popen([sys.executable, "-c", OPEN, home]) for _ in range(2)]:
        assert opening.wait() == 0
    old.execute("INSERT INTO resources VALUES ('TrainingJob', 'job-new', ?, 1.0)", (json.dumps(job(99_999)),))
    old.commit()
    sagemaker = LocalClient(LocalApi(State(home)), "sagemaker")
    assert names(sagemaker.list_training_jobs(MaxResults=2)) == ["job-99999", "job-07999"]
    assert sagemaker.describe_pipeline(PipelineName="p", PipelineVersionId=1)["LastRunTime"].timestamp() == 7.0
    executions = sagemaker.list_pipeline_executions(PipelineName="p")["PipelineExecutionSummaries"]
    assert [each["StartTime"].timestamp() for each in executions] == [7.0, 6.0, 5.0]
    arn = executions[0]["PipelineExecutionArn"]
    found = sagemaker.describe_pipeline_definition_for_execution(PipelineExecutionArn=arn)["PipelineDefinition"]
    assert json.loads(found) == {"Version": "2020-12-01", "Parameters": [], "Steps": []}


def test_pages_stay_right_while_jobs_come_and_go(tmp_path: Path) -> None:
    state = State(tmp_path)
    sagemaker = LocalClient(LocalApi(state), "sagemaker")
    for number in range(30):
        state.put("TrainingJob", f"job-{number:05}", job(number))
    for sort_by in ("CreationTime", "Name", "Status"):
        for order in ("Ascending", "Descending"):
            request = {"MaxResults": 7, "SortBy": sort_by, "SortOrder": order}
            page = sagemaker.list_training_jobs(**request)
            seen = names(page)
            state.put("TrainingJob", f"job-{100:05}", job(100))
            state.delete("TrainingJob", seen[0])
            while "NextToken" in page:
                page = sagemaker.list_training_jobs(**request, NextToken=page["NextToken"])
                seen += names(page)
            assert len(seen) == len(set(seen)), request
            assert set(seen) | {"job-00100"} == {f"job-{n:05}" for n in (*range(30), 100)}, request
            state.delete("TrainingJob", "job-00100")
            state.put("TrainingJob", seen[0], job(int(seen[0][-5:])))


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"NameContains": "-0001"}, range(10, 20)),
        ({"StatusEquals": "Failed"}, (0, 10, 20)),
        ({"CreationTimeAfter": 1027, "NameContains": "job"}, (27, 28, 29)),
        ({"CreationTimeBefore": "1970-01-01T00:16:41Z"}, (0, 1)),
        ({"LastModifiedTimeAfter": 2028}, (28, 29)),
        ({"LastModifiedTimeBefore": 2000.0}, (0,)),
        ({"WarmPoolStatusEquals": "Reused"}, ()),
    ],
)
def test_lists_are_filtered_as_the_service_does(tmp_path: Path, request_: dict[str, object], expected: range) -> None:
    state = State(tmp_path)
    for number in range(30):
        state.put("TrainingJob", f"job-{number:05}", job(number))
    found = LocalApi(state).call("sagemaker", "ListTrainingJobs", {"SortOrder": "Ascending", **request_})
    assert names(found) == [f"job-{number:05}" for number in expected]


@pytest.mark.parametrize("token", ["7", "x" * 99, "e30=", "W251bGwsIDFd", "[" * 5000, "ü", *BEYOND])
def test_a_token_that_no_answer_gave_is_refused_in_a_sentence(tmp_path: Path, token: str) -> None:
    with pytest.raises(ClientError, match="is not one that an earlier answer gave"):
        LocalClient(LocalApi(State(tmp_path)), "sagemaker").list_training_jobs(NextToken=token)


def test_tags_come_with_a_job_and_go_with_it(tmp_path: Path) -> None:
    state = State(tmp_path)
    sagemaker = LocalClient(LocalApi(state), "sagemaker")
    arn = "arn:aws:sagemaker:us-east-1:000000000000:training-job/job-00001"
    tags = [{"Key": "team", "Value": "é"}, {"Key": "x", "Value": ""}]
    state.put("TrainingJob", "job-00001", {**job(1), "TrainingJobArn": arn, "Tags": tags})
    assert sagemaker.list_tags(ResourceArn=arn)["Tags"] == tags
    sagemaker.delete_tags(ResourceArn=arn, TagKeys=["x"])
    state.put("TrainingJob", "job-00001", {**job(1), "TrainingJobArn": arn, "Tags": tags})  # it goes on
    filters = [{"Name": "Tags.team", "Operator": "Equals", "Value": "é"}]
    found = sagemaker.search(Resource="TrainingJob", SearchExpression={"Filters": filters})["Results"]
    assert [each["TrainingJob"]["Tags"] for each in found] == [tags[:1]]
    state.delete("TrainingJob", "job-00001")
    assert sagemaker.list_tags(ResourceArn=arn)["Tags"] == []

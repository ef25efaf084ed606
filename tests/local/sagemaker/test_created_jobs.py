"""Jobs outside pipelines: run, looked at, stopped at any moment, killed, refused."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli.account import end_jobs
from pipeline.local import session
from pipeline.local.engine.runner_process import runner_pid
from pipeline.local.sagemaker.created_jobs import LOST, NOUNS, lock_path
from pipeline.local.store.state import State
from pipeline.service.local_target import LocalTarget
from tests.local.lab import ROOT, Json, Lab
from tests.local.sagemaker.conftest import refusal
from tests.local.samples import definition, processes_of, wait_until

TRAINING, TUNING, PROCESSING = "TrainingJob", "HyperParameterTuningJob", "ProcessingJob"
SNAKE = {kind: noun.replace(" ", "_").replace("hyperp", "hyper_p") for kind, noun in NOUNS.items()}
CLUSTER = {"InstanceType": "ml.m5.large", "VolumeSizeInGB": 1}
RANGES = {"ContinuousParameterRanges": [{"Name": "lr", "MinValue": "0.1", "MaxValue": "0.9"}]}
SLEEP = "import time\nprint('score=0.5', flush=True)\nopen('/opt/ml/model/w', 'w').write('half')\ntime.sleep(60)"
TRAIN = """
    import os, pathlib, sys
    kept = pathlib.Path('/opt/ml/checkpoints/kept')
    print('before', kept.read_text())
    kept.write_text('after')
    print('score=0.25', os.environ['COLOUR'], sys.argv[1:])
    sys.exit('no more' if os.environ['COLOUR'] == 'red' else 0)
"""


class Jobs:
    """A home with its client; requests are those of the steps that a lab makes."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.state, self.aws = lab, State(lab.home), session(lab.home)
        self.sagemaker = self.aws.client("sagemaker")

    def create(self, kind: str, name: str, step: Json, **members: Any) -> str:
        call = getattr(self.sagemaker, f"create_{SNAKE[kind]}")
        return str(call(**{f"{kind}Name": name}, **without_empty(step["Arguments"]), **members)[f"{kind}Arn"])

    def job(self, kind: str, name: str) -> Json:
        return getattr(self.sagemaker, f"describe_{SNAKE[kind]}")(**{f"{kind}Name": name})

    def stop(self, kind: str, name: str) -> None:
        getattr(self.sagemaker, f"stop_{SNAKE[kind]}")(**{f"{kind}Name": name})

    def ended(self, kind: str, name: str) -> Json:
        """A job once it has ended."""
        wait_until(lambda: self.job(kind, name)[f"{kind}Status"] not in ("InProgress", "Stopping"))
        return self.job(kind, name)

    def log(self, kind: str, name: str) -> list[str]:
        found = self.aws.client("logs").get_log_events(
            logGroupName=f"/aws/sagemaker/{kind}s", logStreamName=f"{name}/algo-1"
        )
        return [event["message"] for event in found["events"]]

    def log_of_running(self, beginning: str) -> bool:
        """Whether a training job whose name begins so has printed something."""
        return any(file.stat().st_size for file in self.lab.home.glob(f"jobs/{beginning}*/log.txt"))

    def search(self, code: str, **how: Any) -> Json:
        step = self.lab.tuning("search", code, RANGES, **how)
        step["Arguments"]["HyperParameterTuningJobConfig"].pop("RandomSeed")
        return step


def without_empty(value: Any) -> Any:
    """A request without members that say nothing, which boto3 does not take."""
    if not isinstance(value, dict):
        return value
    members = {name: without_empty(member) for name, member in value.items()}
    return {name: member for name, member in members.items() if member not in ([], {}, None)}


@pytest.fixture
def jobs(lab: Lab) -> Iterator[Jobs]:
    yield Jobs(lab)
    end_jobs(LocalTarget(None, lab.home))
    wait_until(lambda: not processes_of(lab.folder), seconds=5)


def test_jobs_of_one_name_run_side_by_side_as_steps_do_and_keep_their_tags(jobs: Jobs) -> None:
    jobs.lab.put("s3://bucket/kept/kept", "nothing")
    more = {"CheckpointConfig": {"S3Uri": "s3://bucket/kept"}}
    train = jobs.lab.training(
        "a", TRAIN, {"n": "1"}, metrics={"score": r"score=(\S+)"}, environment={"COLOUR": "blue"}, more=more
    )
    process = jobs.lab.processing("b", "import sys; print('hello'); sys.exit(3)")
    arn = jobs.create(TRAINING, "same", train, Tags=[{"Key": "team", "Value": "birds"}])
    jobs.create(PROCESSING, "same", process)
    jobs.create(TUNING, "same", jobs.search("print('score=1')", jobs=2))
    assert arn == "arn:aws:sagemaker:us-east-1:000000000000:training-job/same"
    assert jobs.sagemaker.list_tags(ResourceArn=arn)["Tags"] == [{"Key": "team", "Value": "birds"}]
    code, said = refusal(jobs.create, kind=TRAINING, name="same", step=train)
    assert (code, arn in said) == ("ResourceInUse", True)
    jobs.sagemaker.get_waiter("training_job_completed_or_stopped").wait(
        TrainingJobName="same", WaiterConfig={"Delay": 1}
    )
    found = jobs.job(TRAINING, "same")
    assert (found["FinalMetricDataList"][0]["Value"], found["SecondaryStatus"]) == (0.25, "Completed")
    assert found["CreationTime"] < found["TrainingStartTime"] <= found["TrainingEndTime"]
    assert jobs.log(TRAINING, "same") == ["before nothing", "score=0.25 blue ['-n', '1']"]
    assert jobs.lab.get("s3://bucket/kept/kept") == "after"
    assert jobs.ended(PROCESSING, "same")["FailureReason"] == "AlgorithmError: hello, exit code: 3"
    assert jobs.log(PROCESSING, "same") == ["hello"]
    search = jobs.ended(TUNING, "same")
    assert (search["HyperParameterTuningJobStatus"], search["TrainingJobStatusCounters"]["Completed"]) == (
        "Completed",
        2,
    )
    listed = jobs.sagemaker.list_training_jobs(StatusEquals="Completed")["TrainingJobSummaries"]
    assert {job["TrainingJobName"][:5] for job in listed} == {"same", "same-"}
    assert len(listed) == 3


def test_a_stop_at_any_moment_ends_as_stopped_and_keeps_what_was_written(jobs: Jobs) -> None:
    jobs.create(TRAINING, "early", jobs.lab.training("a", SLEEP))
    jobs.stop(TRAINING, "early")
    jobs.create(TRAINING, "late", jobs.lab.training("a", SLEEP))
    jobs.create(TUNING, "search", jobs.search(SLEEP, jobs=2, parallel=1))
    wait_until(lambda: all(jobs.log_of_running(each) for each in ("late", "search-001")))
    trials = jobs.sagemaker.list_training_jobs_for_hyper_parameter_tuning_job(HyperParameterTuningJobName="search")
    trial = trials["TrainingJobSummaries"][0]["TrainingJobName"]
    assert "trial of the tuning job 'search'" in refusal(jobs.stop, kind=TRAINING, name=trial)[1]
    os.kill(runner_pid(lock_path(jobs.state, TRAINING, "late")) or 0, signal.SIGSTOP)
    for kind, name in ((TRAINING, "late"), (TUNING, "search")):
        jobs.stop(kind, name)
        assert jobs.job(kind, name)[f"{kind}Status"] in ("Stopping", "Stopped")
    assert jobs.ended(TRAINING, "early")["TrainingJobStatus"] == "Stopped"
    assert jobs.ended(TRAINING, "late")["SecondaryStatus"] == "Stopped"
    assert jobs.lab.unpacked("s3://bucket/models/late/output/model.tar.gz") == {"w": "half"}
    assert jobs.ended(TUNING, "search")["HyperParameterTuningJobStatus"] == "Stopped"
    assert jobs.job(TRAINING, trial)["TrainingJobStatus"] == "Stopped"
    assert refusal(jobs.stop, kind=TRAINING, name="late")[1].endswith("is Stopped, so it cannot be stopped.")


def test_a_job_whose_process_is_killed_has_failed_with_its_trials_and_no_other(jobs: Jobs) -> None:
    jobs.create(TUNING, "x", jobs.search(SLEEP, jobs=1))
    jobs.create(TRAINING, "x-1", jobs.lab.training("a", SLEEP))
    jobs.create(TRAINING, "gone", jobs.lab.training("a", SLEEP))
    wait_until(lambda: all(jobs.log_of_running(each) for each in ("x-0", "x-1", "gone")))
    for kind, name in ((TUNING, "x"), (TRAINING, "gone")):
        os.kill(runner_pid(lock_path(jobs.state, kind, name)) or 0, signal.SIGKILL)
    assert jobs.ended(TRAINING, "gone")["FailureReason"] == LOST
    (trial,) = jobs.sagemaker.list_training_jobs(NameContains="x-0")["TrainingJobSummaries"]
    assert jobs.ended(TRAINING, trial["TrainingJobName"])["FailureReason"] == LOST
    search = jobs.job(TUNING, "x")
    assert (search["FailureReason"], search["TrainingJobStatusCounters"]["NonRetryableError"]) == (LOST, 1)
    assert jobs.job(TRAINING, "x-1")["TrainingJobStatus"] == "InProgress"
    end_jobs(LocalTarget(None, jobs.lab.home))
    assert jobs.job(TRAINING, "x-1")["TrainingJobStatus"] == "Stopped"


def test_what_cannot_run_here_is_refused_before_anything_is_recorded(jobs: Jobs) -> None:
    train = jobs.lab.training("a", SLEEP)
    image = {"TrainingImage": "683313688378.dkr.ecr.us-east-1.amazonaws.com/sagemaker-xgboost:1.7-1"}
    wrong = {**train["Arguments"]["AlgorithmSpecification"], **image, "MetricDefinitions": []}
    built_in = {"Arguments": {**train["Arguments"], "AlgorithmSpecification": wrong, "HyperParameters": {}}}
    many = {"Arguments": {**train["Arguments"], "ResourceConfig": {**CLUSTER, "InstanceCount": 1000}}}
    process = jobs.lab.processing("b", "pass")
    del process["Arguments"]["AppSpecification"]["ContainerEntrypoint"]
    search = jobs.search("pass")
    search["Arguments"]["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"]["MetricName"] = "loss"
    for kind, step, said in (
        (TRAINING, built_in, "TrainingJob 'no' trains the built-in algorithm 'sagemaker-xgboost'"),
        (TRAINING, many, "TrainingJob 'no' asks for 1000 instances"),
        (PROCESSING, process, "ProcessingJob 'no' has no AppSpecification.ContainerEntrypoint"),
        (TUNING, search, "HyperParameterTuningJob 'no' searches by the objective 'loss'"),
    ):
        assert refusal(jobs.create, kind=kind, name="no", step=step)[1].startswith(said)
        assert refusal(jobs.job, kind=kind, name="no")[1].startswith("Could not find")
    assert not list(jobs.lab.home.glob("jobs/*"))


def test_a_job_that_cannot_begin_says_why_and_a_pipelines_job_is_its_executions(jobs: Jobs) -> None:
    search = jobs.search("pass")
    parent = {
        "WarmStartType": "TransferLearning",
        "ParentHyperParameterTuningJobs": [{"HyperParameterTuningJobName": "p"}],
    }
    jobs.create(TUNING, "child", search, WarmStartConfig=parent)
    assert (
        "WarmStartConfig names the tuning job 'p', which does not exist" in jobs.ended(TUNING, "child")["FailureReason"]
    )
    name = {"PipelineName": "pipe", "ClientRequestToken": "0" * 32}
    step = jobs.lab.training("Train", SLEEP)
    jobs.sagemaker.create_pipeline(
        **name, PipelineDefinition=json.dumps(definition(step)), RoleArn="arn:aws:iam::000000000000:role/r"
    )
    arn = jobs.sagemaker.start_pipeline_execution(**name)["PipelineExecutionArn"]
    wait_until(lambda: jobs.sagemaker.list_training_jobs()["TrainingJobSummaries"])
    (job,) = jobs.sagemaker.list_training_jobs()["TrainingJobSummaries"]
    said = refusal(jobs.stop, kind=TRAINING, name=job["TrainingJobName"])[1]
    assert said.endswith("is a pipeline's: stop the execution.")
    end_jobs(LocalTarget(None, jobs.lab.home))
    assert jobs.sagemaker.describe_pipeline_execution(PipelineExecutionArn=arn)["PipelineExecutionStatus"] == "Stopped"


def test_the_job_of_a_remote_function_has_completed_if_there_is_a_result(jobs: Jobs) -> None:
    program = ["true", "/opt/ml/input/data/sagemaker_remote_function_bootstrap/job_driver.sh"]
    step = jobs.lab.training("a", "")
    step["Arguments"]["AlgorithmSpecification"]["ContainerEntrypoint"] = program
    jobs.create(TRAINING, "none", step)
    jobs.lab.put("s3://bucket/remote/results/payload.pkl", "3")
    step["Arguments"]["OutputDataConfig"] = {"S3OutputPath": "s3://bucket/remote"}
    jobs.create(TRAINING, "some", step)
    assert jobs.ended(TRAINING, "none")["TrainingJobStatus"] == "Failed"
    assert jobs.ended(TRAINING, "some")["TrainingJobStatus"] == "Completed"


def lose_a_job(folder: Path, request: Json) -> None:
    """On a small disk: kill a job's process when no room is left, say what is said then, and once there is room."""
    jobs, step = Jobs(Lab(folder)), {"Arguments": request}
    jobs.create(TRAINING, "before", step)
    wait_until(lambda: jobs.log_of_running("before"))
    (jobs.lab.home / "state.reserve").unlink()
    subprocess.run(f"cat /dev/zero > {folder}/ballast 2> /dev/null", shell=True, check=False)
    os.kill(runner_pid(lock_path(jobs.state, TRAINING, "before")) or 0, signal.SIGKILL)
    print(jobs.ended(TRAINING, "before")["FailureReason"])
    print(refusal(jobs.create, kind=TRAINING, name="now", step=step)[1])
    (folder / "ballast").unlink()
    print(jobs.job(TRAINING, "before")["FailureReason"])


ON_DISK = f"""
import json, pathlib, sys, types
sys.path.insert(0, {str(ROOT)!r})
sys.modules["tests"] = types.ModuleType("tests")
sys.modules["tests"].__path__ = [{str(ROOT / "tests")!r}]
from tests.local.sagemaker.test_created_jobs import lose_a_job
lose_a_job(pathlib.Path("disk").resolve(), json.loads(sys.argv[1]))
"""


@pytest.mark.skipif(subprocess.run(["unshare", "-rm", "true"], check=False).returncode != 0, reason="needs a tmpfs")
def test_on_a_full_disk_a_job_that_is_lost_says_so_and_none_is_begun(lab: Lab) -> None:
    request = without_empty(lab.training("a", "")["Arguments"])
    request["AlgorithmSpecification"]["ContainerEntrypoint"] = ["sh", "-c", "echo on; sleep 60"]
    mount = 'mkdir disk; mount -t tmpfs -o size=8m none disk; exec "$@"'
    words = ["unshare", "-rm", "sh", "-c", mount, "sh", sys.executable, "-c", ON_DISK, json.dumps(request)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, cwd=lab.folder)
    assert done.returncode == 0, done.stderr
    lost, refused, later = done.stdout.splitlines()
    assert lost.startswith(later) and later == LOST and "is full" in lost and "is full" in refused

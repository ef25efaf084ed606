"""Executions of small pipelines in MLflow: their runs, written again, interrupted, at once, and on its own page."""

import dataclasses
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from pipeline.errors import ServiceError
from pipeline.service.experiments import store_uri, write_executions
from pipeline.service.local_target import LocalTarget
from tests.local.lab import Json, Lab, parameter
from tests.local.samples import command_line, run_cli

SERVER = "arn:aws:sagemaker:us-east-1:123456789012:mlflow-tracking-server/ours"
EPOCHS = "for loss in (3, 2, 'nan'): print(f'loss={loss}')"
METRICS = {"../loss <b>": r"loss=(\S+)", "never": r"never=(\d)", "no group": "loss", "no number": "(loss)"}
RATE = {"ContinuousParameterRanges": [{"Name": "rate", "MinValue": "1", "MaxValue": "2", "ScalingType": "Linear"}]}


class OnAws(LocalTarget):
    """The same records, written as an account's: by requests to MLflow's server."""

    name = "aws"

    def __init__(self, home: Path) -> None:
        super().__init__(None, home)
        self.placement = dataclasses.replace(self.placement, mlflow_tracking_server_arn=SERVER)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A home in which pipeline `p` has failed in its last step, and `named` has an experiment of another name."""
    made = Lab(tmp_path_factory.mktemp("lab"))
    train = made.training("Train", EPOCHS, {"n": "1", "text": "x" * 9000}, metrics=METRICS)
    tune = made.tuning("Tune", "import sys; print('score=' + sys.argv[-1])", RATE, jobs=3)
    last = made.processing("Last", "print(1)", inputs={"flag": "s3://bucket/flag"}, DependsOn=["Train", "Tune"])
    report = made.run(train, tune, last, parameters=[parameter("Size", "Integer", 3)], options=("--name", "p"))
    assert report.code == 1, report.stderr
    config = {"MlflowResourceArn": SERVER, "MlflowExperimentName": "another name"}
    assert made.run(train, MlflowConfig=config, options=("--name", "named")).code == 0
    assert write(made, "none") == []  # the store is there, which takes MLflow two seconds
    return made


@pytest.fixture
def lab(first: Lab, tmp_path: Path) -> Lab:
    """A copy of that home, of which nothing is written."""
    return copied(first, tmp_path / "lab")


def copied(lab: Lab, folder: Path) -> Lab:
    shutil.copytree(lab.folder, folder, symlinks=True)
    return Lab(folder)


def write(lab: Lab, name: str = "p") -> list[str]:
    return write_executions(LocalTarget(None, lab.home), lab.home, name, 20)


def runs(lab: Lab, experiment: str = "p") -> dict[str, Any]:
    """The runs of an experiment by name, the newest of a name; there are no two of one job."""
    from mlflow import MlflowClient

    client = MlflowClient(store_uri(LocalTarget(None, lab.home), lab.home))
    found = list(client.search_runs([client.get_experiment_by_name(experiment).experiment_id]))
    assert len(found) == len({(run.info.run_name, run.data.tags.get("job_name")) for run in found})
    return {run.info.run_name: run for run in reversed(found)}


def content(found: dict[str, Any]) -> Json:
    """What runs hold, without their ids."""
    return {
        name: (run.info.status, run.info.end_time, run.data.params, run.data.tags.get("written"), str(run.data.metrics))
        for name, run in found.items()
    }


def test_an_execution_is_a_run_whose_children_are_its_steps_and_trials(lab: Lab) -> None:
    from mlflow import MlflowClient

    (name,) = write(lab)
    found, client = runs(lab), MlflowClient(store_uri(LocalTarget(None, lab.home), lab.home))
    assert set(found) == {name, "Train", "Tune", "Last", "trial 1", "trial 2", "trial 3"}
    whole, train = found[name], found["Train"]
    assert whole.data.params == {"Size": "3"} and whole.info.status == "FAILED"
    assert whole.data.tags["execution_arn"].endswith(f":pipeline/p/execution/{name}")
    assert "s3://bucket/flag" in found["Last"].data.tags["failure_reason"]
    assert {run.data.tags.get("mlflow.parentRunId") for run in found.values()} == {None, whole.info.run_id}
    assert train.data.params == {"n": "1", "text": "x" * 5000}
    history = client.get_metric_history(train.info.run_id, "__loss _b_")
    assert [(point.step, str(point.value)) for point in history] == [(1, "3.0"), (2, "2.0"), (3, "nan")]
    assert all(found[f"trial {number}"].data.metrics["objective"] >= 1 for number in (1, 2, 3))
    assert "rate" in found["trial 1"].data.params
    (artifact,) = client.list_artifacts(whole.info.run_id)
    model = Path(whole.info.artifact_uri.removeprefix("file://"), artifact.path)
    assert model.samefile(lab.path(whole.data.tags["model"]))  # a link, which takes no room


def test_an_execution_that_went_on_updates_its_run_and_nothing_is_written_twice(lab: Lab) -> None:
    write(lab)
    before = runs(lab)
    assert write(lab) == []
    lab.put("s3://bucket/flag", "1")
    assert run_cli("retry", "--home", lab.home, "--pipeline", "p").returncode == 0
    (name,) = write(lab)
    after = runs(lab)
    assert after[name].info.run_id == before[name].info.run_id
    assert [run.info.status for run in (before[name], after[name])] == ["FAILED", "FINISHED"]
    assert before["Last"].data.tags["job_name"] != after["Last"].data.tags["job_name"]
    assert after["trial 1"].data.tags == before["trial 1"].data.tags


def test_writing_that_is_interrupted_anywhere_goes_on(lab: Lab, tmp_path: Path, monkeypatch: Any) -> None:
    from mlflow import MlflowClient

    undisturbed, requests_made = copied(lab, tmp_path / "undisturbed"), 0
    write(undisturbed)
    wanted = content(runs(undisturbed))
    for operation in ("create_run", "log_batch", "set_terminated"):
        monkeypatch.setattr(MlflowClient, operation, interrupted(getattr(MlflowClient, operation)))
    for _ in range(100):
        try:
            write(lab)
        except KeyboardInterrupt:
            requests_made += 1
        else:
            break
    assert requests_made > 5
    assert content(runs(lab)) == wanted


def interrupted(operation: Any) -> Any:
    """The operation of MLflow, by every fourth call of which the program ends, before or after it is done."""
    calls = 0

    def call(*words: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls % 8 == 4:
            raise KeyboardInterrupt
        answer = operation(*words, **named)
        if calls % 8 == 0:
            raise KeyboardInterrupt
        return answer

    return call


def test_of_two_writers_at_once_one_writes(lab: Lab) -> None:
    with ThreadPoolExecutor() as pool:
        written = list(pool.map(lambda _: write(lab), range(3)))
    assert sorted(map(len, written)) == [0, 0, 1] and len(runs(lab)) == 7


def test_what_was_deleted_in_mlflow_stays_deleted(lab: Lab) -> None:
    from mlflow import MlflowClient

    write(lab)
    client, found = MlflowClient(store_uri(LocalTarget(None, lab.home), lab.home)), runs(lab)
    whole = next(run for run in found.values() if "step_name" not in run.data.tags)
    client.delete_run(whole.info.run_id)
    assert write(lab) == [] and whole.info.run_name not in runs(lab)


def test_a_damaged_store_and_a_copied_home_are_told(lab: Lab, tmp_path: Path) -> None:
    write(lab)
    copy, damaged = copied(lab, tmp_path / "copy"), copied(lab, tmp_path / "damaged")
    with pytest.raises(ServiceError, match=r"remove it"):
        write(copy)
    (damaged.home / "mlflow/mlflow.db").write_text("no database")
    with pytest.raises(ServiceError, match="not a database"):
        write(damaged)


def test_the_experiment_is_the_one_that_the_definition_names(lab: Lab) -> None:
    (name,) = write(lab, "named")
    assert name in runs(lab, "another name")
    client = LocalTarget(None, lab.home).client("sagemaker")
    (listed,) = client.list_pipeline_executions(PipelineName="named")["PipelineExecutionSummaries"]
    described = client.describe_pipeline_execution(PipelineExecutionArn=listed["PipelineExecutionArn"])
    assert described["MLflowConfig"] == {"MlflowResourceArn": SERVER, "MlflowExperimentName": "another name"}


def test_no_other_command_imports_mlflow(lab: Lab) -> None:
    code = f"import sys, run_pipeline; run_pipeline.main(['status', '--home', {str(lab.home)!r}, '--pipeline', 'p'])"
    done = subprocess.run([sys.executable, "-c", f"{code}; sys.exit('mlflow' in sys.modules)"], capture_output=True)
    assert done.returncode == 0
    assert run_cli("experiments", "--home", lab.folder / "none").returncode == 0
    assert not (lab.folder / "none").exists()


def test_mlflows_page_shows_the_runs_and_its_server_takes_them_as_that_of_an_account(
    lab: Lab, tmp_path: Path, monkeypatch: Any
) -> None:
    (name,) = write(lab)
    words = command_line("experiments", "--home", lab.home, "--pipeline", "p", "--open")
    with (tmp_path / "log").open("w+") as log:
        command = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, cwd=tmp_path)
        try:
            deadline = time.monotonic() + 60
            while not (found := re.search(r"Page +(http://\S+)", (tmp_path / "log").read_text())):
                assert time.monotonic() < deadline and command.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.2)
            assert "<div id=" in requests.get(found[1], timeout=30).text
            assert name in names(found[1], "p")
            monkeypatch.setenv("SAGEMAKER_MLFLOW_CUSTOM_ENDPOINT", found[1])
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "thing")
            (other,) = write_executions(OnAws(lab.home), lab.home, "named", 5)
            assert names(found[1], "another name") == {other, "Train"}
        finally:
            command.send_signal(signal.SIGINT)
            assert command.wait(20) == 0
    with pytest.raises(requests.ConnectionError):
        requests.get(found[1], timeout=5)


def names(page: str, experiment: str) -> set[str]:
    """The names of an experiment's runs, by MLflow's REST API."""
    api = f"{page}/api/2.0/mlflow"
    known = requests.get(f"{api}/experiments/get-by-name", {"experiment_name": experiment}, timeout=30).json()
    wanted = {"experiment_ids": [known["experiment"]["experiment_id"]]}
    found = requests.post(f"{api}/runs/search", json=wanted, timeout=30).json()["runs"]
    return {run["info"]["run_name"] for run in found}

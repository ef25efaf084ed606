"""The command line as somebody types it: what it says, what it prints as JSON, how it ends, and no traceback."""

import json
import os
import re
import shlex
import subprocess
import time
from pathlib import Path

import pytest

from pipeline.config.config import load
from pipeline.local.engine.runner_process import taken_lock
from pipeline.local.sagemaker.session import local_session
from pipeline.local.store.state import State
from pipeline.service import local_target
from pipeline.service.local_target import LocalTarget
from tests.local.samples import ROOT, command_line, definition, processes_of, python_step, wait_until
from tests.service.plain_versions import ENDPOINT, GROUP, registered

NO_IMAGE = "folder holds no image; looked for: .bmp, .gif, .jpeg, .jpg, .png, .tif, .tiff, .webp"
pytestmark = pytest.mark.usefixtures("nothing_is_left")


@pytest.mark.parametrize("words", ["status", "models", "upsert", "endpoints", "invoke list.json", "approve", "run"])
def test_a_home_that_cannot_be_one_is_answered_by_a_sentence(cli, files, words):
    files(list_json="[]")
    place = Path("list.json").resolve()
    said = f"{place} is not a folder; choose another place by --home.\n"
    assert cli(*words.split(), "--home", "list.json") == (2, "", said)


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (lambda file: file.write_text("garbage " * 1000), "(file is not a database); remove it to start anew"),
        (lambda file: file.mkdir(), "(unable to open database file); you need the permission"),
    ],
    ids=["damaged", "not allowed"],
)
def test_a_state_that_cannot_be_used_is_answered_by_a_sentence_with_the_fitting_remedy(cli, make, remedy):
    Path("home").mkdir()
    make(Path("home/state.db"))
    said = cli("status")
    assert (said.status, said.out) == (2, "")
    assert said.error.startswith(f"{Path('home/state.db').resolve()} cannot be used {remedy}")


def test_validate_finds_a_definitions_mistakes(cli, files):
    one = python_step("One", "pass")
    one["Arguments"]["AppSpecification"]["ImageURI"] = "image"
    two = python_step("Two", "pass", depends_on=["Three"])
    two["Arguments"]["Environment"] = {
        "A": {"Get": "Steps.Non.ProcessingJobArn"},
        "B": {"Get": "Steps.One.ModelArtifacts"},
        "C": {"Get": "Parameters.Round"},
    }
    files(bad_json=definition(one, two, python_step("Three", "pass", depends_on=["Two"])), good_json=definition(one))
    said = cli("validate", "--definition", "bad.json")
    assert (said.status, said.out) == (2, "")
    for part in ("ImageURI", "Steps.Non", "ModelArtifacts", "Parameters.Round", "'Two'"):
        assert part in said.error
    as_json = cli("validate", "--json", "--definition", "bad.json")
    assert json.loads(as_json.out) == {"valid": False, "problems": said.error.splitlines()}
    assert (as_json.status, as_json.error) == (2, "")


def test_validate_is_content_with_what_is_sound(cli, files):
    files(good_json=definition(python_step("One", "pass")))
    assert cli("validate", "--definition", "good.json") == (0, "good.json: no problem found.\n", "")
    assert json.loads(cli("validate", "--json").out) == {"valid": True, "problems": []}


# JSON: one document on standard output, whatever happens


def test_run_and_status_print_one_document(cli, files):
    files(plain_json=definition(python_step("One", "print('hello')")), bad_json=definition(python_step("No", "1 / 0")))
    said = cli("run", "--definition", "plain.json", "--json")
    document = json.loads(said.out)
    assert (said.status, document["status"]) == (0, "Succeeded")
    assert "One                  Succeeded after " in said.error
    assert document["steps"][0]["log"].startswith("home/jobs/pipelines-")
    for words in (["status", "--json"], ["status", "--json", "--watch"]):
        again = cli(*words, "--pipeline", "plain")
        assert (again.status, json.loads(again.out)["steps"]) == (0, document["steps"])
    said = cli("run", "--definition", "bad.json", "--json")
    assert (said.status, json.loads(said.out)["status"]) == (1, "Failed")


def test_the_other_commands_print_one_document(cli):
    for words, expected in (("models", []), ("endpoints", []), ("teardown", {"removed": False})):
        said = cli(*words.split(), "--json")
        assert (said.status, json.loads(said.out)) == (0, expected)
    registered(Path("home"), "PendingManualApproval")
    [model] = json.loads(cli("models", "--json").out)
    assert (model["version"], model["status"]) == (1, "PendingManualApproval")
    approved = json.loads(cli("approve", "--json", "--why", "good").out)
    assert approved["endpoint"] == {"name": ENDPOINT, "status": "InService"}
    [endpoint] = json.loads(cli("endpoints", "--json").out)
    assert (endpoint["status"], endpoint["url"].startswith("http://127.0.0.1:")) == ("InService", True)
    Path("image.png").write_bytes(b"pixels")
    [answer] = json.loads(cli("invoke", "--json", "image.png").out)
    assert (answer["image"], answer["model"], answer["bytes"]) == ("image.png", "model 1", 6)
    assert answer["headers"]["Accept"] == "application/json;verbose=1"
    rejected = json.loads(cli("reject", "--json", "1").out)
    assert rejected["model_approval_status"] == "Rejected"
    assert json.loads(cli("teardown", "--json", "--yes").out) == {"removed": True}
    assert not Path("home").exists()


def test_start_returns_at_once_and_stop_ends_it(cli):
    started = json.loads(cli("start", "--json").out)
    status = json.loads(cli("status", "--json").out)
    assert (status["execution_arn"], status["status"]) == (started["execution_arn"], "Executing")
    assert status["parameters"]["AccuracyThreshold"] == 0.8
    began = time.monotonic()
    stopped = cli("stop", "--json")
    assert (stopped.status, json.loads(stopped.out)["status"]) == (0, "Stopped")
    assert time.monotonic() - began < 20
    assert json.loads(cli("upsert", "--json").out)["pipeline_arn"].endswith(":pipeline/image-classification")


# what AWS costs, by what a run took here


def test_the_cost_is_of_the_local_runs_durations_when_there_are_some(cli, tmp_path):
    assert "At most: " in cli("cost").out
    assert list(Path.cwd().iterdir()) == []
    config = load(ROOT / "pipeline.yaml")
    finished(LocalTarget(config, Path("home")).state, config.pipeline.name, seconds=90.0)
    lines = cli("cost").out.splitlines()
    assert lines[:5] == [
        "An estimate in instance-hours; their prices: https://aws.amazon.com/sagemaker/pricing/",
        "With --target aws it asks AWS for them.",
        "Durations of the local run, execution abc: this machine is faster or slower than those instances.",
        "One run:",
        "  PrepareData          ml.m5.xlarge        1m 30s",
    ]
    assert lines[-1] == "The endpoint, left on: 730 hours of ml.m5.large a month, price unknown."
    document = json.loads(cli("cost", "--json").out)
    assert (document["measured_on"], document["estimate"], document["run"]) == ("local", True, None)
    assert [step["basis"] for step in document["steps"]] == ["measured", "limit", "limit", "limit"]


def finished(state: State, name: str, *, seconds: float) -> None:
    """An execution of which one processing job took so long."""
    began, arn = time.time(), f"arn:aws:sagemaker:us-east-1:000000000000:pipeline/{name}/execution/abc"
    state.put("Pipeline", name, {"PipelineName": name, "CreationTime": began})
    state.add_execution(
        {
            "PipelineExecutionArn": arn,
            "PipelineName": name,
            "PipelineExecutionStatus": "Succeeded",
            "CreationTime": began,
            "LastModifiedTime": began,
            "Definition": {},
        }
    )
    job = "arn:aws:sagemaker:us-east-1:000000000000:processing-job/job"
    step = {"StepName": "PrepareData", "StepStatus": "Succeeded", "StartTime": began, "EndTime": began + seconds}
    state.put_step(arn, {**step, "Metadata": {"ProcessingJob": {"Arn": job}}})
    document = {
        "ProcessingJobName": "job",
        "ProcessingJobArn": job,
        "ProcessingStartTime": began,
        "ProcessingEndTime": began + seconds,
        "ProcessingResources": {"ClusterConfig": {"InstanceCount": 1}},
    }
    state.put("ProcessingJob", "job", document)


# a home that is not there


@pytest.mark.parametrize(
    "words",
    [
        "status", "stop", "retry", "models", "approve", "reject", "endpoints", "cost", "schedule show",
        "status xyz", "approve arn:aws:sagemaker:us-east-1:000000000000:model-package/x/1", "invoke image.png",
        "teardown --yes",
    ],
)  # fmt: skip
def test_a_command_that_finds_nothing_makes_no_folder(cli, words):
    Path("image.png").write_bytes(b"pixels")
    said = cli(*words.split(), "--home", "tpyo")
    assert len((said.out + said.error).splitlines()) >= 1
    assert [entry.name for entry in Path.cwd().iterdir()] == ["image.png"]


def test_a_home_that_another_command_keeps_busy_is_told_in_a_sentence(cli, monkeypatch, files):
    files(plain_json=definition(python_step("One", "pass")))
    monkeypatch.setattr(local_target, "LOCK_WAIT_SECONDS", 0.0)
    with taken_lock(Path("home/locks/start")):
        assert cli("run", "--definition", "plain.json") == (
            1,
            "",
            "Another run_pipeline.py has been changing home for 0 s; repeat the command once it has ended, or choose "
            "another --home.\n",
        )


# an update says what it changes


def test_an_update_shows_what_changes_and_a_repetition_changes_nothing(cli, files):
    Path("photos/cat").mkdir(parents=True)
    Path("photos/cat/1.jpg").write_text("image")
    words = ["upsert", "--config", "pipeline.yaml"]
    files(pipeline_yaml="data: {source: photos}\n")
    assert re.search(f"Pipeline {GROUP} created; \\d+ new uploads.\n$", cli(*words).error)
    assert cli(*words).error.endswith(f"Pipeline {GROUP} unchanged; no new uploads.\n")
    files(pipeline_yaml="pipeline: {max_parallel_steps: 2}\ndata: {source: photos, augmented_views: 5}\n")
    assert cli(*words).error.endswith(
        f"Changes of pipeline {GROUP}:\n"
        "  steps at the same time: 4 -> 2\n"
        "  step PrepareData: AppSpecification.ContainerArguments.--augmented-views: 0 -> 5\n"
        f"Pipeline {GROUP} updated; no new uploads.\n",
    )


@pytest.mark.parametrize("words", ["infra", "images build"])
def test_what_is_about_an_account_says_so_here(cli, words):
    name = words.split()[0]
    assert cli(*words.split()) == (
        2,
        "",
        f"{name} is about an AWS account; this machine needs none of it: --target aws.\n",
    )


# what a person sees


def test_a_run_fits_80_columns_and_its_next_commands_can_be_typed(cli, files):
    Path("my work").mkdir()
    path = Path("my work/three steps.json")
    steps = [python_step("A", "print('x')"), python_step("B", "import sys; print('why'); sys.exit('no luck')")]
    path.write_text(json.dumps(definition(*steps)))
    said = cli("run", "--definition", path, "--home", "my work/home")
    assert said.status == 1
    lines = said.out.splitlines()
    assert [line for line in (*lines, *said.error.splitlines()) if len(line) > 80 and "/" not in line] == []
    assert "B failed: AlgorithmError: no luck, exit code: 1" in lines
    assert "  why" in lines
    following = [line.strip() for line in lines[lines.index("Next") + 1 :: 2]]
    assert [shlex.split(line)[2] for line in following] == ["retry", "status", "studio"]
    done = subprocess.run(following[1], shell=True, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "B failed: AlgorithmError: no luck, exit code: 1" in done.stdout


def test_tables_fit_80_columns(cli):
    registered(Path("home"), "PendingManualApproval")
    cli("approve")
    for words in ("models", "endpoints"):
        assert max(len(line) for line in cli(words).out.splitlines()) <= 80


def test_whoever_reads_only_the_beginning_sees_no_traceback(tmp_path):
    path = tmp_path / "plain.json"
    path.write_text(json.dumps(definition(python_step("One", "pass"))))
    words = command_line("run", "--json", "--definition", path, "--home", tmp_path / "home")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(writer)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


# teardown


def test_teardown_ends_what_runs_and_leaves_what_is_not_its_own(cli, files):
    files(long_json=definition(python_step("Long", "import time; print('begun', flush=True); time.sleep(600)")))
    Path("home").mkdir()
    Path("home/notes.txt").write_text("mine")
    registered(Path("home"), "PendingManualApproval")
    cli("approve")
    process = subprocess.Popen(
        command_line("run", "--definition", "long.json", "--home", "home"), stdout=subprocess.DEVNULL
    )
    wait_until(lambda: any("begun" in log.read_text() for log in Path("home/jobs").glob("*/log.txt")))
    said = cli("teardown", "--yes")
    assert said.out == "Ends 1 endpoint and removes home with all models and data.\nRemoved.\n"
    assert process.wait(timeout=10) != 0
    assert not processes_of(Path.cwd())
    assert [path.name for path in Path("home").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("answer", ["", "no\n", "y\n"])
def test_teardown_without_a_yes_removes_nothing(cli, answer):
    registered(Path("home"), "Approved")
    words = command_line("teardown", "--home", "home")
    done = subprocess.run(words, input=answer, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "Ends 0 endpoints and removes home with all models and data.\nType yes to go on: Nothing was removed.\n"
    )
    assert Path("home/state.db").is_file()


# at the same time


def test_two_upserts_at_once_in_a_new_home_are_one_pipeline(tmp_path):
    (tmp_path / "photos/cat").mkdir(parents=True)
    (tmp_path / "photos/cat/1.jpg").write_text("image")
    config = tmp_path / "pipeline.yaml"
    config.write_text("data: {source: photos}\n")
    words = command_line("upsert", "--home", tmp_path / "home", "--config", config)
    processes = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert [out for out, _ in said] == ["", ""]
    target = LocalTarget(load(config), tmp_path / "home")
    assert len(local_session(target.state).client("sagemaker").list_pipelines()["PipelineSummaries"]) == 1
    [data] = (tmp_path / "home/s3/local/image-classification/data").glob("photos-*")
    assert (data / "cat/1.jpg").read_text() == "image"


@pytest.mark.parametrize("command", ["list", "validate"])
def test_a_working_directory_that_is_gone_is_answered_by_a_sentence(cli, tmp_path, monkeypatch, command):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert cli(command) == (1, "", "The working directory has been removed: change to another one.\n")

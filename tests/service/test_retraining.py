"""The loop of `schedule run`, by a clock that does not wait, and what a scheduled start leads to."""

import datetime
import io
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from said import Cli

from pipeline.aws.schedule import OFF, ON, Schedule
from pipeline.config.config import load
from pipeline.service import executions
from pipeline.service.local_target import LocalTarget
from pipeline.service.retraining import LOOK_SECONDS, due_times

START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
MINUTE = datetime.timedelta(minutes=1)


class Hands:
    """A clock whose hands are moved by sleeping."""

    def __init__(self) -> None:
        self.time = START
        self.slept: list[float] = []

    def now(self) -> datetime.datetime:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += datetime.timedelta(seconds=seconds)


def schedule(expression: str, state: str = ON, changed: datetime.datetime = START) -> Schedule:
    return Schedule("retrain", expression, "UTC", state, changed)


def minutes(times: list[datetime.datetime]) -> list[float]:
    return [(time - START) / MINUTE for time in times]


def test_each_time_comes_when_it_is_due_and_is_announced_once():
    clock, said = Hands(), []
    due = due_times(lambda: schedule("rate(1 minute)"), say=said.append, now=clock.now, sleep=clock.sleep)
    found = []
    for _ in range(3):
        found.append(next(due))
        assert clock.time == found[-1]
    assert minutes(found) == [1, 2, 3]
    assert said == found
    assert max(clock.slept) == LOOK_SECONDS


def test_times_that_pass_while_a_run_runs_are_left_out():
    clock = Hands()
    due = due_times(lambda: schedule("rate(1 minute)"), say=lambda time: None, now=clock.now, sleep=clock.sleep)
    first = next(due)
    clock.time += 150 * datetime.timedelta(seconds=1)
    assert minutes([first, next(due)]) == [1, 4]


def test_what_another_command_sets_counts_from_then_on():
    clock = Hands()
    changed = START + datetime.timedelta(minutes=30)

    def read() -> Schedule:
        is_changed = clock.time >= changed
        return schedule("cron(10,40 * * * ? *)", changed=changed) if is_changed else schedule("rate(1 hour)")

    assert minutes([next(due_times(read, say=lambda time: None, now=clock.now, sleep=clock.sleep))]) == [40]


def test_it_ends_when_the_schedule_is_off_or_has_no_time_left():
    def all_of(read) -> list[datetime.datetime]:
        clock = Hands()
        due: Iterator[datetime.datetime] = due_times(read, say=lambda time: None, now=clock.now, sleep=clock.sleep)
        return list(due)

    assert minutes(all_of(lambda: schedule("at(2026-01-01T00:02:00)"))) == [2]
    assert all_of(lambda: schedule("rate(1 minute)", OFF)) == []


# a schedule starts the pipeline without parameters


SETTINGS = """
data: {source: s3://local/photos, image_size_px: 32, near_duplicates: false, horizontal_flip: false}
model: {backbone: tf_efficientnet_lite0, folds: 2}
tuning: {max_jobs: 1, max_parallel_jobs: 1, ranges: {lr: {type: categorical, values: [0.01]}}}
debug: {enabled: false}
evaluation: {accuracy_threshold: 0.3}
registry: {require_improvement: true}
"""


@pytest.fixture
def home(tmp_path, files) -> LocalTarget:
    """A home whose bucket holds dark and light images below `photos`, split already; jobs are cached as on AWS."""
    files(pipeline_yaml=SETTINGS)
    target = LocalTarget(load(Path("pipeline.yaml")), Path("home"), cache="as-on-aws")
    for split, count in (("train", 20), ("validation", 8), ("test", 26)):
        upload(target, split, count, dark="hat", light="shoe")
    return target


def upload(target: LocalTarget, split: str, count: int, **classes: str) -> None:
    """Put made-up images of each brightness below the class that is given for it."""
    random = np.random.default_rng(len(classes) + count)
    for brightness, name in classes.items():
        for number in range(count):
            pixels = random.integers(0, 90, (32, 32, 3)) + (160 if brightness == "light" else 0)
            stream = io.BytesIO()
            Image.fromarray(pixels.astype(np.uint8)).save(stream, "PNG")
            key = f"photos/{split}/{name}/{brightness}-{count}-{number}.png"
            target.client("s3").put_object(Bucket="local", Key=key, Body=stream.getvalue())


def start_as_scheduled(cli: Cli, target: LocalTarget) -> dict[str, Any]:
    """Start the pipeline as the scheduler does; the document of the execution's end."""
    request = {"PipelineName": "image-classification", "ClientRequestToken": secrets.token_hex(16)}
    started = target.client("sagemaker").start_pipeline_execution(**request)
    executions.watch(target, started["PipelineExecutionArn"], lambda steps: None)
    document: dict[str, Any] = json.loads(cli("status", "--json", "--config", "pipeline.yaml").out)
    assert document["execution_arn"] == started["PipelineExecutionArn"]
    return document


def test_a_schedule_retrains_on_new_images_registers_nothing_known_and_no_worse_model(cli, home):
    def rolled_out() -> dict[str, Any]:
        found = home.client("sagemaker").describe_endpoint(EndpointName="image-classification")
        return {name: found[name] for name in ("EndpointConfigName", "LastModifiedTime")}

    said = cli("run", "--json", "--cache", "as-on-aws", "--config", "pipeline.yaml")
    first = json.loads(said.out)
    assert (said.status, first["nothing_new"]) == (0, None)
    assert (first["metrics"]["test_accuracy"], first["metrics"]["test_accuracy_images"]) == (1.0, 52)
    before = rolled_out()

    unchanged = start_as_scheduled(cli, home)
    assert unchanged["status"] == "Succeeded"
    assert {step["name"]: step["cache_hit"] for step in unchanged["steps"]} == {
        **dict.fromkeys(("DescribeInputs", "EvaluateModel", "CheckAccuracy", "CheckIsNew"), False),  # a champion is new
        **dict.fromkeys(("PrepareData", "TuneHyperparameters", "TrainWithDebugger"), True),
    }
    assert unchanged["nothing_new"] == (
        "Nothing new: the model equals image-classification version 1, so nothing was registered or deployed."
    )
    assert unchanged["model_package_arn"] == first["model_package_arn"]
    assert unchanged["nothing_new"] in " ".join(cli("status", "--config", "pipeline.yaml").out.split())

    upload(home, "train", 60, dark="shoe", light="hat")  # under the same prefix, and labelled wrongly
    worse = start_as_scheduled(cli, home)
    assert worse["status"] == "Failed"
    assert [step["name"] for step in worse["steps"] if step["cache_hit"]] == []
    [refused] = [step for step in worse["steps"] if step["name"] == "ModelRefused"]
    assert "is an improvement of -" in refused["failure_reason"]
    assert worse["metrics"]["test_accuracy"] < 0.9
    reasons = cli("explain-cache", "--config", "pipeline.yaml").out
    assert "--data-version" in reasons

    assert [row["version"] for row in json.loads(cli("models", "--json", "--config", "pipeline.yaml").out)] == [1]
    assert rolled_out() == before

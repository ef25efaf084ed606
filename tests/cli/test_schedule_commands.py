"""The schedule on the command line, which here is kept and run by this machine."""

import datetime
import json
import shlex
import signal
import subprocess
from pathlib import Path

import pytest

from pipeline.config.config import load
from pipeline.service.local_target import LocalTarget
from tests.local.samples import ROOT, command_line, run_cli
from tests.service.plain_versions import GROUP

pytestmark = pytest.mark.usefixtures("nothing_is_left")


def test_the_schedule_is_kept_and_checked_as_on_aws(cli):
    assert cli("schedule", "show") == (0, f"{GROUP}-retrain: rate(7 days) UTC, off\n", "")
    said = cli("schedule", "set", "cron(0 3 1 1 ? 2098)")
    assert (said.status, said.error) == (0, "")
    assert said.out.splitlines()[:2] == [
        f"{GROUP}-retrain: cron(0 3 1 1 ? 2098) UTC, on",
        "  next: 2098-01-01 03:00 UTC",
    ]
    following = said.out.splitlines()[2].partition(": ")[2]
    assert shlex.split(following)[2:] == ["schedule", "run", "--home", "home"]
    assert json.loads(cli("schedule", "show", "--json").out) == {
        "name": f"{GROUP}-retrain",
        "expression": "cron(0 3 1 1 ? 2098)",
        "timezone": "UTC",
        "state": "ENABLED",
        "next_times": ["2098-01-01T03:00:00+00:00"],
    }
    assert cli("schedule", "set", "daily") == (
        2,
        "",
        "The schedule must be like rate(7 days), cron(0 3 ? * SUN *) or at(2030-01-31T03:00:00), but got 'daily'.\n",
    )
    assert cli("schedule", "off").out == f"{GROUP}-retrain: cron(0 3 1 1 ? 2098) UTC, off\n"
    config = load(ROOT / "pipeline.yaml")
    LocalTarget(config, Path("home")).set_up(config)
    assert cli("schedule", "show").out == f"{GROUP}-retrain: cron(0 3 1 1 ? 2098) UTC, off\n"


@pytest.mark.parametrize("words", ["set", "show now", "run now"])
def test_the_schedule_wants_an_expression_to_set_and_only_then(cli, words):
    assert cli("schedule", *words.split()) == (
        2,
        "",
        "schedule: expected show, off, run, or set EXPRESSION, such as: schedule set 'rate(7 days)'.\n",
    )


def test_what_is_due_starts_for_real_and_a_failed_retrain_does_not_end_the_schedule(cli, files):
    Path("photos/cat").mkdir(parents=True)
    Path("photos/cat/1.jpg").write_text("no image")
    files(pipeline_yaml="data: {source: photos}\n")
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=10)
    config = ["--config", "pipeline.yaml"]
    assert cli("schedule", "set", f"at({soon:%Y-%m-%dT%H:%M:%S})", *config).status == 0
    said = cli("schedule", "run", *config)
    assert said.status == 0
    moment = f"{soon:%Y-%m-%d %H:%M:%S} UTC"
    assert f"The next run starts at {moment.replace(':00 UTC', ' UTC')}.\n" in said.error
    assert "Pipeline image-classification created; " in said.error
    assert "PrepareData failed: " in said.out
    assert "The schedule is off or has no time left; switch it on with: " in said.error.splitlines()[-1]
    assert json.loads(cli("status", "--json", *config).out)["status"] == "Failed"


def test_ctrl_c_ends_the_schedule_and_one_home_has_one(tmp_path):
    home = tmp_path / "home"
    assert run_cli("schedule", "set", "rate(7 days)", "--home", home).returncode == 0
    words = command_line("schedule", "run", "--home", home)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            assert running.stderr is not None
            first, second = running.stderr.readline(), running.stderr.readline()
            other = run_cli("schedule", "run", "--home", home)
        finally:
            running.send_signal(signal.SIGINT)
        _, rest = running.communicate(timeout=20)
    assert first == "image-classification-retrain: rate(7 days) UTC, on; Ctrl-C ends this.\n"
    assert second.startswith("The next run starts at ")
    assert (other.returncode, other.stderr.splitlines()[-1]) == (
        1,
        "Another `schedule run` of this home is running; end it or choose another --home.",
    )
    assert (running.returncode, rest) == (0, "")

"""Trials that are forked from a parent which has imported their modules: the same in all but time."""

import json
import os
import re
import signal
import subprocess
import textwrap
from pathlib import Path

import pytest

from pipeline.local.sandbox.launcher import installed_imports
from pipeline.local.store.state import State
from tests.local.lab import Lab, Report
from tests.local.samples import processes_of, wait_until

X = {"Name": "rate", "MinValue": "0.25", "MaxValue": "4", "ScalingType": "Linear"}
RANGES = {"ContinuousParameterRanges": [X]}
OFF = {"LOCAL_FORK": "off"}
FORKED = "forked = 'colorsys' in __import__('sys').modules\nimport colorsys\n"  # a module that nothing else imports
SURROUNDINGS = """
    import json, os, sys
    found = {"forked": forked}
    environment = {name: value for name, value in os.environ.items() if name != "LOCAL_FORK"}
    told = {
        "argv": sys.argv,
        "path": sys.path,
        "environment": environment,
        "cwd": os.getcwd(),
        "file": __file__,
        "name": __name__,
        "main": sorted(name for name in vars(sys.modules["__main__"]) if name.startswith("__")),
        "own_session": os.getsid(0) == os.getpid() == os.getpgid(0),
        "package": [name for name in sys.modules if name.partition(".")[0] == "pipeline"],
        "descriptors": len(os.listdir("/proc/self/fd")),
        "stdin": os.readlink("/proc/self/fd/0"),
        "opt_ml": sorted(os.listdir("/opt/ml")),
        "model_dir_is_shared": os.path.samefile(os.environ["SM_MODEL_DIR"], "/opt/ml/model"),
    }
    print(json.dumps({"forked": forked, "told": told}))
    print("score=1", file=sys.stderr)
"""


def code(body: str) -> str:
    """A script that knows whether it was forked."""
    return FORKED + textwrap.dedent(body)


def logs(report: Report, name: str = "Tune") -> list[str]:
    """What the trials printed, in the order of their names."""
    jobs = sorted((report.home / "jobs").glob("*"))
    return [(job / "log.txt").read_text() for job in jobs if re.search(r"-\d{3}-[0-9a-f]{8}$", job.name)]


def without_names(text: str, report: Report) -> str:
    """A log in which the names of jobs and executions are the same for all."""
    text = text.replace(str(report.home), "HOME")
    return re.sub(r"[0-9a-z]{12}-Tune-\w+(-\d{3}-[0-9a-f]{8})?", "JOB", text)


@pytest.fixture
def two_labs(lab: Lab, tmp_path: Path) -> tuple[Lab, Lab]:
    """For the same search twice."""
    (tmp_path / "other").mkdir()
    return lab, Lab(tmp_path / "other")


def test_a_forked_trial_finds_what_one_started_afresh_finds(two_labs: tuple[Lab, Lab]) -> None:
    found = []
    for lab, environment in zip(two_labs, ({}, OFF), strict=True):
        lab.put("s3://bucket/data/a.txt", "a")
        channels = {"data": "s3://bucket/data"}
        step = lab.tuning("Tune", code(SURROUNDINGS), RANGES, jobs=2, parallel=1, channels=channels)
        report = lab.run(step, environment=environment)
        assert report.statuses == {"Tune": "Succeeded"}
        found.append([json.loads(without_names(log, report).splitlines()[0]) for log in logs(report)])
    forked, fresh = found
    assert [trial["forked"] for trial in forked] == [True, True]
    assert [trial["forked"] for trial in fresh] == [False, False]
    for one, other in zip(forked, fresh, strict=True):
        assert one["told"] == other["told"]


ENDINGS = {
    "raises": "AlgorithmError: ValueError: no, exit code: 1",
    "exits": "AlgorithmError: no output, exit code: 7",
    "complains": "AlgorithmError: because, exit code: 1",
    "crashes": "AlgorithmError: no output, exit code: 139",
    "is killed": "InternalServerError: the job's process was killed from outside; its last line: no output",
}


def test_a_forked_trial_ends_as_one_started_afresh(two_labs: tuple[Lab, Lab]) -> None:
    body = """
        import os, sys
        def raises(): raise ValueError("no")
        def exits(): raise SystemExit(7)
        def complains(): sys.exit("because")
        def crashes(): os.kill(os.getpid(), 11)
        def killed(): os.kill(os.getpid(), 9)
        {"raises": raises, "exits": exits, "complains": complains, "crashes": crashes}.get(sys.argv[2], killed)()
    """
    ranges = {"CategoricalParameterRanges": [{"Name": "kind", "Values": list(ENDINGS)}]}
    said = []
    for lab, environment in zip(two_labs, ({}, OFF), strict=True):
        report = lab.run(
            lab.tuning("Tune", code(body), ranges, jobs=None, config={"Strategy": "Grid"}),
            lab.tuning("Wrong", "def (", RANGES, jobs=1),
            environment=environment,
        )
        state = State(lab.home)
        jobs = [state.get("TrainingJob", folder.name) for folder in (lab.home / "jobs").glob("*-0*")]
        state.close()
        reasons = {job["HyperParameters"].get("kind", "wrong"): job["FailureReason"] for job in jobs if job}
        assert reasons == {**ENDINGS, "wrong": "AlgorithmError: SyntaxError: invalid syntax, exit code: 1"}
        said.append(sorted(logs(report)))
    assert said[0] == said[1]
    assert any("in raises" in log and "fork_server" not in log for log in said[0])


def test_a_forked_trial_is_asked_to_end_by_sigterm(lab: Lab) -> None:
    body = """
        import argparse, signal, sys, time
        parser = argparse.ArgumentParser()
        parser.add_argument("--kind")
        kind = parser.parse_known_args()[0].kind
        def end(number, frame):
            print("ended in good order", flush=True)
            sys.exit(0)
        signal.signal(signal.SIGTERM, end)
        for epoch in range(4):
            print(f"score={0.9 if kind != 'c' else 0.1}", flush=True)
            time.sleep(0 if kind != "c" else 20)
    """
    ranges = {"CategoricalParameterRanges": [{"Name": "kind", "Values": ["a", "b", "c"]}]}
    config = {"Strategy": "Grid", "TrainingJobEarlyStoppingType": "Auto"}
    report = lab.run(lab.tuning("Tune", code(body), ranges, jobs=None, parallel=1, config=config))
    assert [log.count("ended in good order") for log in logs(report)] == [0, 0, 1]
    assert report.properties("Tune")["TrainingJobStatusCounters"]["Stopped"] == 1


@pytest.mark.parametrize("isolation", ["on", "off"])
def test_what_a_forked_trial_leaves_running_is_ended_even_if_it_hides(lab: Lab, isolation: str) -> None:
    """One has left the process group, the other has been forked and never became another program."""
    body = """
        import os, subprocess, sys, time
        folder = os.environ["SM_MODEL_DIR"]
        sleeper = "import sys, time; open(sys.argv[1], 'w'); time.sleep(60)"
        subprocess.Popen([sys.executable, "-c", sleeper, folder + "/a"], start_new_session=True, env={})
        if os.fork() == 0:
            os.setsid()
            open(folder + "/b", "w")
            time.sleep(60)
        while len(os.listdir(folder)) < 2:
            time.sleep(0.01)
        print(forked, "score=1")
    """
    step = lab.tuning("Tune", code(body), RANGES, jobs=1, environment={"MINE": str(lab.home)})
    report = lab.run(step, environment={"LOCAL_ISOLATION": isolation})
    assert logs(report) == ["True score=1\n"]
    wait_until(lambda: not processes_of(lab.home))


def test_nothing_outlives_a_runner_that_is_killed(lab: Lab) -> None:
    body = "import time; open('/opt/ml/model/begun', 'w'); time.sleep(60)"
    words = lab.command({"Version": "2020-12-01", "Parameters": [], "Steps": [lab.tuning("Tune", code(body), RANGES)]})
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=lab.folder) as process:
        wait_until(lambda: len(list(lab.home.glob("jobs/*/ml/model/begun"))) == 2)
        (runner,) = [pid for pid in processes_of(lab.home) if is_runner(pid)]
        os.kill(runner, signal.SIGKILL)
        process.wait(30)
    wait_until(lambda: not processes_of(lab.home))


def is_runner(pid: int) -> bool:
    """Whether this is the process that runs the execution."""
    return b"pipeline.local.runner" in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_trials_draw_different_numbers_and_share_the_threads_that_they_are_given(lab: Lab) -> None:
    body = """
        import os, random
        import numpy
        print(forked, os.environ["OMP_NUM_THREADS"], numpy.random.rand(), random.random())
        print("score=1")
    """
    report = lab.run(lab.tuning("Tune", code(body), RANGES, jobs=2, parallel=2))
    first, second = (log.split()[:4] for log in logs(report))
    assert first[:2] == second[:2] == ["True", str(max(1, (os.cpu_count() or 1) // 2))]
    assert first[2] != second[2]
    assert first[3] != second[3]


def test_what_an_import_says_is_in_the_log_of_every_trial(lab: Lab) -> None:
    report = lab.run(lab.tuning("Tune", code("import this\nprint(forked, 'score=1')"), RANGES, jobs=2, parallel=1))
    assert [(log.splitlines()[0], log.splitlines()[-1]) for log in logs(report)] == [
        ("The Zen of Python, by Tim Peters", "True score=1")
    ] * 2


def test_small_inputs_are_shared_by_trials_and_safe_from_them(lab: Lab) -> None:
    lab.put("s3://bucket/data/a.txt", "original")
    body = """
        with open("/opt/ml/input/data/data/a.txt", "r+") as file:
            print(forked, file.read())
            file.seek(0)
            file.write("modified")
        print("score=1")
    """
    step = lab.tuning("Tune", code(body), RANGES, jobs=2, parallel=1, channels={"data": "s3://bucket/data"})
    report = lab.run(step)
    assert logs(report) == ["True original\nscore=1\n"] * 2
    assert lab.get("s3://bucket/data/a.txt") == "original"
    placed = list(lab.home.glob("jobs/*/ml/input/data/data/a.txt"))
    assert [file.samefile(lab.path("s3://bucket/data/a.txt")) for file in placed] == [True, True]


@pytest.mark.parametrize(
    ("files", "hyperparameters", "forked"),
    [
        ({"train.py": "print(forked, 'score=1')"}, {}, True),
        ({"train.py": "import helper; print(forked, helper.ours, 'score=1')", "helper.py": "ours = 1"}, {}, True),
        ({"train.py": "import socket; print(forked, socket.ours, 'score=1')", "socket.py": "ours = 1"}, {}, False),
        ({"train.py": "print(forked, 'score=1')", "requirements.txt": "absent @ file:///nowhere"}, {}, False),
        ({"train.sh": "echo False score=1"}, {"sagemaker_program": "train.sh"}, False),
    ],
)
def test_only_plain_scripts_are_forked(
    lab: Lab, files: dict[str, str], hyperparameters: dict[str, str], forked: bool
) -> None:
    step = lab.tuning("Tune", "", RANGES, jobs=1)
    own = {name: FORKED + text if name == "train.py" else text for name, text in files.items()}
    static = step["Arguments"]["TrainingJobDefinition"]["StaticHyperParameters"]
    static |= {"sagemaker_submit_directory": lab.archive("s3://bucket/code/own.tar.gz", own), **hyperparameters}
    log = logs(lab.run(step))[0]
    assert log.startswith("True") == forked


def test_the_imports_of_a_script_are_read_from_it_and_its_neighbours(tmp_path: Path) -> None:
    files = {
        "train.py": "import numpy as np, os.path\nfrom head import Head\nimport rules.all\nif np:\n    import absent\n",
        "head.py": "from torch import nn\nimport train\nimport sagemaker.session\ndef f():\n    import pandas\n",
        "rules/__init__.py": "from . import base\nfrom .base import Rule\n",
        "rules/base.py": "import scipy.stats\n",
        "rules/all.py": "def (",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert installed_imports(tmp_path / "train.py") == ["numpy", "os.path", "torch", "scipy.stats"]

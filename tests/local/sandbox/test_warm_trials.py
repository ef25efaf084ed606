"""Trials that are forked from a parent which has imported their modules: the same in all but time."""

import json
import os
import re

import pytest

from pipeline.local.sandbox.launcher import installed_imports
from pipeline.local.store.state import State
from tests.local.lab import Lab, Report, packed, source

RANGES = {"ContinuousParameterRanges": [{"Name": "rate", "MinValue": "0.25", "MaxValue": "4", "ScalingType": "Linear"}]}
WAYS = {"forked": {}, "afresh": {"LOCAL_FORK": "off"}}
FORKED = "forked = 'colorsys' in __import__('sys').modules\nimport colorsys\n"  # a module that nothing else imports
SURROUNDINGS = """
    import this, json, os, random, sys
    import numpy
    data = open("/opt/ml/input/data/data/a.txt", "r+")
    told = {
        "argv": sys.argv,
        "path": sys.path,
        "environment": {name: value for name, value in os.environ.items() if name != "LOCAL_FORK"},
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
        "data": data.read(),
    }
    data.seek(0)
    data.write("modified")
    print(json.dumps({"forked": forked, "told": told, "drawn": [numpy.random.rand(), random.random()]}))
    print("score=1", file=sys.stderr)
"""
ENDINGS = {
    "raise ValueError('no')": "AlgorithmError: ValueError: no, exit code: 1",
    "raise SystemExit(7)": "AlgorithmError: no output, exit code: 7",
    "import sys; sys.exit('because')": "AlgorithmError: because, exit code: 1",
    "import os; os.kill(os.getpid(), 11)": "AlgorithmError: no output, exit code: 139",
    "import os; os.kill(os.getpid(), 9)": (
        "InternalServerError: the job's process was killed from outside; its last line: no output"
    ),
}


def logs(report: Report) -> list[str]:
    """What the trials printed, in the order of their names."""
    jobs = sorted((report.home / "jobs").glob("*"))
    return [(job / "log.txt").read_text() for job in jobs if re.search(r"-\d{3}-[0-9a-f]{8}$", job.name)]


@pytest.mark.parametrize("parallel", [1, 2])
def test_a_forked_trial_finds_what_one_started_afresh_finds_and_draws_its_own_numbers(lab: Lab, parallel: int) -> None:
    data = lab.put("s3://bucket/data/a.txt", "original")
    channels = {"data": "s3://bucket/data"}
    step = lab.tuning("Tune", FORKED + source(SURROUNDINGS), RANGES, jobs=2, parallel=parallel, channels=channels)
    found = {}
    for way, environment in WAYS.items():
        report = lab.run(step, environment=environment, options=["--no-cache"])
        assert report.statuses == {"Tune": "Succeeded"}
        ours = [log for log in logs(report) if report.record("Tune")["Job"] in log]
        texts = [re.sub(r"[0-9a-z]{12}-Tune-\w+(-\d{3}-[0-9a-f]{8})?", "JOB", log) for log in ours]
        assert [text.splitlines()[0] for text in texts] == ["The Zen of Python, by Tim Peters"] * 2
        found[way] = [json.loads(text.splitlines()[-2]) for text in texts]
        first, second = (trial.pop("drawn") for trial in found[way])
        assert first[0] != second[0]
        assert first[1] != second[1]
    assert [[trial.pop("forked") for trial in trials] for trials in found.values()] == [[True] * 2, [False] * 2]
    assert found["forked"] == found["afresh"]
    told = found["forked"][0]["told"]
    assert told["data"] == lab.get(data) == "original"
    assert told["environment"]["OMP_NUM_THREADS"] == str(max(1, (os.cpu_count() or 1) // parallel))
    placed = list(lab.home.glob("jobs/*/ml/input/data/data/a.txt"))
    assert [file.samefile(lab.path(data)) for file in placed] == [True] * 4  # shared by all, by links


def test_a_forked_trial_ends_as_one_started_afresh(lab: Lab) -> None:
    ranges = {"CategoricalParameterRanges": [{"Name": "kind", "Values": list(ENDINGS)}]}
    code = FORKED + "import sys\ndef called():\n    exec(sys.argv[2])\ncalled()\n"
    steps = [
        lab.tuning("Tune", code, ranges, jobs=None, config={"Strategy": "Grid"}),
        lab.tuning("Wrong", "def (", RANGES, jobs=1),
    ]
    said = []
    for environment in WAYS.values():
        said.append(sorted(set(logs(lab.run(*steps, environment=environment, options=["--no-cache"])))))
    jobs = State(lab.home).all("TrainingJob")
    reasons = [(job["HyperParameters"].get("kind"), job["FailureReason"]) for job in jobs]
    wrong = (None, "AlgorithmError: SyntaxError: invalid syntax, exit code: 1")
    assert sorted(reasons, key=str) == sorted([*ENDINGS.items(), wrong] * 2, key=str)
    assert said[0] == said[1]  # the same tracebacks
    assert any("in called" in log for log in said[0])


def test_a_forked_trial_is_asked_to_end_by_sigterm(lab: Lab) -> None:
    code = """
        import signal, sys, time
        def end(number, frame):
            print("ended in good order", flush=True)
            sys.exit(0)
        signal.signal(signal.SIGTERM, end)
        for epoch in range(4):
            print(f"score={0.1 if 'c' in sys.argv else 0.9}", flush=True)
            time.sleep(20 if 'c' in sys.argv else 0)
    """
    ranges = {"CategoricalParameterRanges": [{"Name": "kind", "Values": ["a", "b", "c"]}]}
    config = {"Strategy": "Grid", "TrainingJobEarlyStoppingType": "Auto"}
    report = lab.run(lab.tuning("Tune", FORKED + source(code), ranges, jobs=None, parallel=1, config=config))
    assert [log.count("ended in good order") for log in logs(report)] == [0, 0, 1]
    assert report.properties("Tune")["TrainingJobStatusCounters"]["Stopped"] == 1


@pytest.mark.parametrize(
    ("files", "hyperparameters", "forked"),
    [
        ({"train.py": "import helper; print(forked, helper.ours, 'score=1')", "helper.py": "ours = 1"}, {}, True),
        ({"train.py": "import socket; print(forked, socket.ours, 'score=1')", "socket.py": "ours = 1"}, {}, False),
        ({"train.py": "print(forked, 'score=1')", "requirements.txt": "absent @ file:///nowhere"}, {}, False),
        ({"train.sh": "echo False score=1"}, {"sagemaker_program": "train.sh"}, False),
    ],
)
def test_only_plain_scripts_are_forked(lab: Lab, files: dict[str, str], hyperparameters, forked: bool) -> None:
    step = lab.tuning("Tune", "", RANGES, jobs=1)
    own = {name: FORKED + text if name == "train.py" else text for name, text in files.items()}
    static = step["Arguments"]["TrainingJobDefinition"]["StaticHyperParameters"]
    static |= {"sagemaker_submit_directory": lab.put("s3://bucket/own.tar.gz", packed(own)), **hyperparameters}
    assert logs(lab.run(step))[0].startswith("True") == forked


def test_the_imports_of_a_script_are_read_from_it_and_its_neighbours(any_lab: Lab) -> None:
    files = {
        "train.py": "import numpy as np, os.path\nfrom head import Head\nimport rules.all\nif np:\n    import absent\n",
        "head.py": "from torch import nn\nimport train\nimport sagemaker.session\ndef f():\n    import pandas\n",
        "rules/__init__.py": "from . import base\nfrom .base import Rule\n",
        "rules/base.py": "import scipy.stats\n",
        "rules/all.py": "def (",
    }
    for name, text in files.items():
        any_lab.put(f"s3://code/{name}", text)
    assert installed_imports(any_lab.path("s3://code/train.py")) == ["numpy", "os.path", "torch", "scipy.stats"]

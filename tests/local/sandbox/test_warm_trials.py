"""Trials that are forked from a parent which has imported their modules: the same in all but time."""

import json
import os
import re

import pytest

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


def logs(report: Report, step: str = "") -> list[str]:
    """What the trials, by default of all steps, printed, in the order of their names."""
    jobs = sorted((report.home / "jobs").glob(f"*-{step}*"))
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


def test_only_plain_scripts_are_forked(lab: Lab) -> None:
    requirements = {"train.py": "print(forked, 'score=1')", "requirements.txt": "absent @ file:///nowhere"}
    cases: dict[str, tuple[dict[str, str], dict[str, str], bool]] = {
        "Own": ({"train.py": "import own; print(forked, own.x, 'score=1')", "own.py": "x = 1"}, {}, True),
        "Same": ({"train.py": "import socket; print(forked, socket.x, 'score=1')", "socket.py": "x = 1"}, {}, False),
        "Needs": (requirements, {}, False),
        "Shell": ({"train.sh": "echo False score=1"}, {"sagemaker_program": "train.sh"}, False),
    }
    steps = {name: lab.tuning(name, "", RANGES, jobs=1) for name in cases}
    for name, (files, hyperparameters, _) in cases.items():
        own = {file: FORKED + text if file == "train.py" else text for file, text in files.items()}
        archive = lab.put(f"s3://bucket/{name}.tar.gz", packed(own))
        static = steps[name]["Arguments"]["TrainingJobDefinition"]["StaticHyperParameters"]
        static |= {"sagemaker_submit_directory": archive, **hyperparameters}
    report = lab.run(*steps.values())
    said = {name: next(log for log in logs(report, name)) for name in cases}
    assert {name: log.startswith("True") for name, log in said.items()} == {name: c[2] for name, c in cases.items()}

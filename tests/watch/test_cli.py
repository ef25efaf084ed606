"""`python -m watch judge` on folders that smdebug itself wrote."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small_training import trained

STEPS = Path(__file__).resolve().parents[2] / "steps"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # smdebug's protobuf code is of 2020


@pytest.fixture(scope="module")
def diverged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tensors of a training whose loss became NaN."""
    return trained(tmp_path_factory.mktemp("run") / "debug-output")


def watch(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(STEPS)}
    command = [sys.executable, "-P", "-m", "watch", *map(str, words)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)


def judged(folder: Path, *words: object, cwd: Path) -> dict[str, Any]:
    done = watch("judge", folder, "--json", *words, cwd=cwd)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def statuses(document: dict[str, Any]) -> dict[str, str]:
    return {rule["name"]: rule["status"] for rule in document["rules"]}


@pytest.mark.parametrize("level", [".", "..", "index/000000000", "events"])
def test_a_run_is_judged_whatever_level_of_it_is_named(diverged: Path, level: str, tmp_path: Path) -> None:
    assert statuses(judged(diverged / level, cwd=tmp_path))["LossNotFinite"] == "IssuesFound"
    files = {path.name for path in (tmp_path / "watch").glob("*/*/*")}
    assert files == {"status.json", "series.json", "debugger.html", "debugger.json"}


def test_workers_are_all_judged_and_told_apart(diverged: Path, tmp_path: Path) -> None:
    """One that trains well beside one that does not."""
    trained(tmp_path / "tensors", lr=0.05)
    for path in diverged.rglob("*_worker_0.*"):
        copy = tmp_path / "tensors" / path.relative_to(diverged)
        content = path.read_bytes().replace(b"_worker_0.tfevents", b"_worker_1.tfevents")
        copy.with_name(copy.name.replace("worker_0", "worker_1")).write_bytes(content)
    found = {rule["name"]: rule for rule in judged(tmp_path, cwd=tmp_path)["rules"]}["LossNotFinite"]
    assert found["status"] == "IssuesFound"
    assert {fired["worker"] for fired in found["fired"]} == {"worker_1"}


@pytest.mark.parametrize(
    ("rules", "status", "sentence"),
    [
        ("LossNotFinite,Overfit", 1, "LossNotFinite"),
        ("Overfit", 0, "LossNotFinite"),
        ("LossNotFinit", 2, "no such rule judges this run; these judge it: "),
    ],
)
def test_a_rule_that_has_found_something_fails_a_build(
    diverged: Path, rules: str, status: int, sentence: str, tmp_path: Path
) -> None:
    done = watch("judge", diverged, "--fail-on", rules, cwd=tmp_path)
    assert (done.returncode, sentence in done.stdout + done.stderr) == (status, True)
    assert max(map(len, ["", *done.stdout.splitlines()])) <= 80


CONFIGURATION = {
    "RuleConfigurationName": "Gradients",
    "RuleEvaluatorImage": "503895931360.dkr.ecr.us-east-1.amazonaws.com/sagemaker-debugger-rules:latest",
    "RuleParameters": {"rule_to_invoke": "VanishingGradient", "threshold": "1000"},
}
OWN = {"RuleConfigurationName": "Own", "RuleParameters": {"rule_to_invoke": "MyRule", "source_s3_uri": "s3://b/my.py"}}
SDK = {"name": "Gradients", "image_uri": "...", "rule_parameters": CONFIGURATION["RuleParameters"]}


@pytest.mark.parametrize(
    "document",
    [
        {"TrainingJobName": "job", "DebugRuleConfigurations": [CONFIGURATION, OWN]},
        {"Steps": [{"Arguments": {"DebugRuleConfigurations": [CONFIGURATION, OWN]}}]},
        {"debug_rule_configurations": [SDK, OWN]},
        [CONFIGURATION, OWN],
    ],
)
@pytest.mark.parametrize("as_yaml", [False, True])
def test_rules_are_those_of_a_training_job(diverged: Path, document: Any, as_yaml: bool, tmp_path: Path) -> None:
    import yaml

    (tmp_path / "request").write_text(yaml.safe_dump(document) if as_yaml else json.dumps(document))
    found = judged(diverged, "--rules", "request", cwd=tmp_path)
    assert statuses(found) == {"Gradients": "IssuesFound"}
    assert found["rules"][0]["semantics"] == "aws"
    assert "MyRule" in found["unknown_rules"][0]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere"], "nowhere is not there"),
        (["."], "holds no run"),
        (["run", "--rules", "nothing.json"], "nothing.json cannot be read"),
        (["run", "--rules", "text"], "text is neither JSON nor YAML"),
        (["run", "--rules", "empty"], "empty holds no DebugRuleConfigurations"),
        (["run", "--rules", "wrong"], "threshold"),
        (["two"], "holds 2 runs, a, b"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(diverged: Path, words: list[str], sentence: str, tmp_path: Path) -> None:
    wrong = {"RuleConfigurationName": "R", "RuleParameters": {"rule_to_invoke": "VanishingGradient", "threshold": "x"}}
    (tmp_path / "text").write_bytes(b"\xff\x00: [")
    (tmp_path / "empty").write_text("{}")
    (tmp_path / "wrong").write_text(json.dumps([wrong]))
    if words != ["."]:
        for name in ("run", "two/a", "two/b"):
            shutil.copytree(diverged, tmp_path / name)
    done = watch("judge", *words, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert sentence in done.stderr


def test_runs_are_compared_exported_and_reported(diverged: Path, tmp_path: Path) -> None:
    judged(diverged, "--out", "run", cwd=tmp_path)
    for words in (
        ("report", "run", "--out", "again"),
        ("compare", "run", diverged, "--out", "both"),
        ("export", "run", "--tensorboard", "events"),
    ):
        done = watch(*words, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert (tmp_path / done.stdout.strip()).is_file()
    assert watch("export", "run", cwd=tmp_path).returncode == 2
    (tmp_path / "taken").touch()
    done = watch("judge", diverged, "--out", "taken", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n"), "name another place" in done.stderr) == (2, 1, True)


def test_a_run_is_followed_to_its_end(diverged: Path, tmp_path: Path) -> None:
    """Files come in the order in which smdebug writes them, the end marker last."""
    run = tmp_path / "run"
    shutil.copytree(diverged / "collections", run / "collections")
    environment = os.environ | {"PYTHONPATH": str(STEPS)}
    command = [sys.executable, "-P", "-m", "watch", "judge", str(run), "--follow", "--out", str(tmp_path / "out")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        for part in ("events", "index"):
            shutil.copytree(diverged / part, run / part)
        assert process.stdout
        assert any("LossNotFinite: IssuesFound" in line for line in process.stdout)
        assert process.poll() is None
        (run / "training_job_end.ts").touch()
        assert "Report" in process.stdout.read()
    assert process.returncode == 0
    assert "goes on" not in watch("judge", run, cwd=tmp_path).stdout
    (run / "training_job_end.ts").unlink()
    for path in run.rglob("*"):
        os.utime(path)  # copies keep their times, and what has not been written to for minutes was broken off
    assert "goes on" in watch("judge", run, cwd=tmp_path).stdout

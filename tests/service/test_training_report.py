"""`report`, and the report that a local run writes: found through the last Training step, whatever that left."""

import io
import json
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import training_output as made

from pipeline.cli import output
from pipeline.cli.executions import facts, next_commands, rules_text
from pipeline.cli.output import open_in_browser
from pipeline.service.reports import small_files, unpack, verdicts_of
from tests.local.lab import Lab, Report
from tests.local.samples import run_cli

TRIAL = """
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--lr")
print(f"score={1 - float(parser.parse_known_args()[0].lr)}")
"""
RANGES = {"ContinuousParameterRanges": [{"Name": "lr", "MinValue": "0.01", "MaxValue": "0.5", "ScalingType": "Linear"}]}
CACHED = {"CacheConfig": {"Enabled": True, "ExpireAfter": "30d"}}


def script(files: Mapping[str, str], ending: str = "") -> str:
    """A training that leaves those files."""
    return (
        "import os, sys\nfrom pathlib import Path\n"
        f"for name, content in {dict(files)!r}.items():\n"
        "    path = Path(os.environ['SM_OUTPUT_DATA_DIR'], name)\n"
        "    path.parent.mkdir(parents=True, exist_ok=True)\n"
        "    path.write_text(content)\n" + ending
    )


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def trained(lab: Lab, files: Mapping[str, str], ending: str = "", *, jobs: int = 2) -> Report:
    """A search and a training, both cached."""
    tune = {**lab.tuning("Tune", TRIAL, RANGES, jobs=jobs, config={"Strategy": "Random"}), **CACHED}
    train = {**lab.training("Train", script(files, ending), DependsOn=["Tune"]), **CACHED}
    return lab.run(tune, train)


def page_of(report: Report, folder: Path) -> tuple[Path, dict[str, Any]]:
    """The page that a run names, and the JSON beside it."""
    page = folder / report.document["reports"]["debugger"]
    return page, json.loads(page.with_name("debugger.json").read_text())


def test_a_local_run_writes_the_report_with_its_search_and_the_command_writes_it_anew(lab: Lab, tmp_path: Path) -> None:
    report = trained(lab, made.files(**made.sick()))
    assert report.code == 0, report.stderr
    assert {name: report.document["rules"][name] for name in ("Overfit", "MyRule", "AllZero")} == {
        "Overfit": "IssuesFound",
        "MyRule": "Error",
        "AllZero": "NoIssuesFound",
    }
    page, document = page_of(report, tmp_path)
    assert report.document["reports"] == {"evaluation": None, "debugger": str(page.relative_to(tmp_path)),
                                          "profiler": str(page.relative_to(tmp_path))}  # fmt: skip
    trials = document["search"]["trials"]
    best = report.document["best_hyperparameters"]
    assert [(trial["winner"], trial["status"]) for trial in trials].count((True, "Completed")) == 1
    assert next(trial["hyperparameters"] for trial in trials if trial["winner"]) == best
    assert all(trial["objective"] == pytest.approx(1 - float(trial["hyperparameters"]["lr"])) for trial in trials)

    page.write_text("old")
    words = ["report", "--pipeline", "lab", "--home", lab.home, "--no-open"]
    done = run_cli(*words, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{page.relative_to(tmp_path)}\n", "")
    assert "Stopped by rule Overfit" in page.read_text()

    done = run_cli(*words, "--json", "--out", "elsewhere", cwd=tmp_path)
    said = json.loads(done.stdout)
    assert said["execution_arn"] == report.document["execution_arn"]
    assert said["report"] == str(tmp_path / "elsewhere/debugger.html")
    assert json.loads(Path(said["data"]).read_text())["search"] == document["search"]


def test_a_reused_training_keeps_its_report_until_the_search_is_another(lab: Lab, tmp_path: Path) -> None:
    page, _ = page_of(trained(lab, made.files()), tmp_path)
    page.write_text("kept")
    again = trained(lab, made.files())
    assert again.reused == ["Tune", "Train"]
    assert page_of(again, tmp_path)[0] == page
    assert page.read_text() == "kept"
    other = trained(lab, made.files(), jobs=3)
    assert other.reused == ["Train"]
    assert page_of(other, tmp_path)[0] == page
    assert len(page_of(other, tmp_path)[1]["search"]["trials"]) == 3
    assert "Completed" in page.read_text()


def test_a_training_that_failed_has_a_report_too(lab: Lab, tmp_path: Path) -> None:
    history = made.history(outcome="Failed", reason="The loss is not a number.")
    report = trained(lab, made.files(history=history), "sys.exit('The loss is not a number.')\n")
    assert (report.code, report.document["status"]) == (1, "Failed")
    assert page_of(report, tmp_path)[1]["outcome"] == "Failed"
    assert report.document["rules"]["AllZero"] == "NoIssuesFound"


@pytest.mark.parametrize("files", [{}, {"tensors/index.json": "{}"}], ids=["no output", "tensors only"])
def test_a_training_without_debugger_files_has_no_report_and_the_command_says_so(
    lab: Lab, tmp_path: Path, files: dict[str, str]
) -> None:
    report = lab.run(lab.training("Train", script(files)))
    assert (report.code, report.document["rules"]) == (0, {})
    assert set(report.document["reports"].values()) == {None}
    assert "report" not in report.stderr
    execution, job = report.document["execution_arn"].rpartition("/")[2], report.record("Train")["Job"]
    done = run_cli("report", execution, "--pipeline", "lab", "--home", lab.home, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"Training job {job} of execution {execution} saved no debugger files, so there is no report of it.\n"
    )
    assert not (lab.home / "reports").exists()


def test_an_execution_without_a_training_has_nothing_to_report(lab: Lab, tmp_path: Path) -> None:
    report = lab.run(lab.processing("Prepare", "pass"))
    assert report.document["reports"]["debugger"] is None
    execution = report.document["execution_arn"].rpartition("/")[2]
    done = run_cli("report", "--pipeline", "lab", "--home", lab.home, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"Execution {execution} has not trained anything yet, so there is nothing to report.\n"


def test_damaged_output_is_told_and_the_run_goes_on(lab: Lab, tmp_path: Path) -> None:
    report = trained(lab, made.files())
    page, _ = page_of(report, tmp_path)
    page.unlink()
    job = report.record("Train")["Job"]
    archive = lab.path(f"s3://bucket/models/{job}/output/output.tar.gz")
    content = archive.read_bytes()
    archive.unlink()
    archive.write_bytes(content[: len(content) // 2])
    words = ["--pipeline", "lab", "--home", lab.home]
    done = run_cli("status", *words, cwd=tmp_path)
    assert done.returncode == 0
    said = f"s3://bucket/models/{job}/output/output.tar.gz cannot be unpacked: "
    assert done.stderr.startswith(f"There is no training report: {said}")
    done = run_cli("report", *words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(said)
    assert len(done.stderr.splitlines()) == 1


# the archive comes from a job: nothing in it is believed


def packed(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def named(name: str, content: bytes = b"{}", **members: Any) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    for key, value in members.items():
        setattr(member, key, value)
    return member, content


def test_only_expected_regular_files_are_unpacked(tmp_path: Path) -> None:
    content = packed(
        named("./history.json"),
        named("rules/status.json"),
        named("rules/../../outside.json"),
        named("../history.json"),
        named("/rules/absolute.json"),
        named("profile/link.json", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        named("profile/hard.json", b"", type=tarfile.LNKTYPE, linkname="history.json"),
        named("profile/pipe", b"", type=tarfile.FIFOTYPE),
        named("tensors/0.tfevents"),
        named("rules", b"not a folder"),
    )
    folder = tmp_path / "output"
    assert unpack(content, folder)
    found = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if not path.is_dir()]
    assert sorted(found) == ["output/history.json", "output/rules/status.json"]
    assert small_files(content) == {"history.json": {}, "rules/status.json": {}}


def test_files_that_are_too_large_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.service.reports.LARGEST_BYTES", 1 << 20)
    with pytest.raises(ValueError, match=r"^its files are larger than 1 MiB$"):
        unpack(packed(named("history.json"), named("profile/a.json", b" " * (1 << 20))), tmp_path)


CUT_OFF = packed(named("history.json"))[:40]  # holds the time: in a test's name, it would differ between processes


@pytest.mark.parametrize("content", [b"", b"no archive", CUT_OFF], ids=["empty", "no archive", "cut off"])
def test_small_files_of_no_archive_are_none(content: bytes) -> None:
    assert small_files(content) == {}


@pytest.mark.parametrize("document", [None, [], {}, {"rules": 1}, {"rules": [None, {"name": "a"}]}])
def test_verdicts_of_what_holds_none_are_none(document: Any) -> None:
    assert verdicts_of(document) == {}


# what a person sees


def test_a_browser_is_asked_only_where_there_is_a_screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(output.webbrowser, "open", lambda uri: not asked.append(uri))
    for name in output.DISPLAYS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(output.sys, "platform", "linux")
    assert not open_in_browser(tmp_path / "page.html")
    assert asked == []
    monkeypatch.setitem(os.environ, "DISPLAY", ":0")
    assert open_in_browser(tmp_path / "page.html")
    assert asked == [f"file://{tmp_path}/page.html"]


def test_a_browser_that_fails_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(uri: str) -> bool:
        raise output.webbrowser.Error("no browser")

    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(output.webbrowser, "open", fail)
    assert not open_in_browser(tmp_path / "page.html")


DOCUMENT: dict[str, Any] = {
    "execution_arn": "arn:aws:sagemaker:us-east-1:1:pipeline/p/execution/xyz",
    "status": "Succeeded", "steps": [], "metrics": {}, "parameters": {}, "best_hyperparameters": {}, "endpoint": None,
    "model_package_arn": None, "model_approval_status": None, "example_image": None, "nothing_new": None,
    "rules": {"Overfit": "IssuesFound", "AllZero": "NoIssuesFound", "MyRule": "Error"},
}  # fmt: skip


def test_the_summary_does_not_part_a_name_at_its_hyphen() -> None:
    message = "Endpoint image-classification is being created with image-classification version 1."
    deployed = {"outputs": {"message": message, "endpoint_name": "e"}}
    rows = [row for row in facts({**DOCUMENT, "steps": [deployed], "reports": {}}) if row[0] != "Rules"]
    assert rows[-2:] == [
        ("Deployment", "Endpoint image-classification is being created with"),
        ("", "image-classification version 1."),
    ]


def test_the_summary_names_rules_and_each_report_once() -> None:
    reports = {"evaluation": "e.html", "debugger": "d.html", "profiler": "d.html"}
    assert facts({**DOCUMENT, "reports": reports}) == [
        ("Rules", "3 watched the training; found a problem: Overfit; failed: MyRule"),
        ("Evaluation", "e.html"),
        ("Debugger", "d.html"),
    ]
    assert rules_text({"Overfit": "NoIssuesFound"}) == "1 watched the training; no problem found"


def test_the_summary_warns_of_a_comparison_that_says_little() -> None:
    rows = facts({**DOCUMENT, "rules": {}, "reports": {}, "comparison_warning": "of 80 test images 4 are new"})
    assert rows == [("Comparison", "Warning: of 80 test images 4 are new")]


def test_the_summary_of_a_run_on_aws_names_the_command() -> None:
    def commands(place: str | None) -> list[str]:
        document = {**DOCUMENT, "reports": {"evaluation": None, "debugger": place, "profiler": place}}
        return [
            text
            for text, _ in next_commands(document, lambda *words: " ".join(words), usual_endpoint=None, is_own=True)
        ]

    assert "report xyz" in commands("s3://bucket/job/output/output.tar.gz")
    assert not any(text.startswith("report") for text in commands(".local/reports/job/debugger.html"))
    assert not any(text.startswith("report") for text in commands(None))

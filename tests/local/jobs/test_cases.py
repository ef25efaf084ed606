"""What jobs find, leave and fail of: the steps of `cases/*.json`, those of a file in one run, each judged by itself."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.local.store.state import State
from tests.local.lab import Json, Lab, Report, call

CASES = Path(__file__).parent / "cases"
FILES = {name: json.loads((CASES / f"{name}.json").read_text()) for name in ("processing", "training", "functions")}
REFUSED = json.loads((CASES / "refused.json").read_text())
ENVIRONMENT = {"AWS_PROFILE": "mine", "SM_HPS": "{}", "PYTHONPATH": "/nowhere"}  # of the user's; jobs see none of it


def changed(document: Json, path: str, value: object) -> None:
    """Set a member; `path` is its keys and indices with dots between."""
    *parents, last = [int(key) if key.isdecimal() else key for key in path.split(".")]
    place = document
    for key in parents:
        place = place[key]
    place[last] = value


def filled(value: Any, **names: object) -> Any:
    """The JSON value with <name> replaced by what it stands for."""
    text = json.dumps(value)
    for name, meaning in names.items():
        text = text.replace(f"<{name}>", str(meaning))
    return json.loads(text)


def step_of(lab: Lab, name: str, case: Json, scripts: Json) -> Json:
    """The step of a case."""

    def code(written: Any) -> str:
        return "\n".join(scripts[written] if isinstance(written, str) else written)

    given = case.get("given", {})
    if case["kind"] == "function":
        return call(name, given.get("event", {}), given.get("outputs", {"s": "String", "i": "Integer"}), function=name)
    if case["kind"] == "drivers":
        step = lab.drivers(name, {file: code(written) for file, written in case["files"].items()}, **given)
    else:
        step = getattr(lab, case["kind"])(name, code(case["code"]), **given)
    for path, value in case.get("set", {}).items():
        changed(step["Arguments"], path, value)
    return step


@pytest.fixture(scope="module")
def runs() -> dict[str, Report | None]:
    """The reports of the files that were run; None of one whose run did not come to an end."""
    return {}


def run_file(name: str, folder: Path) -> Report:
    """Run the cases of a file."""
    file, lab = FILES[name], Lab(folder)
    (lab.folder / "beside.py").write_text("VALUE = 'imported'\n")
    for uri, text in file.get("objects", {}).items():
        lab.put(uri, text)
    for uri, files in file.get("archives", {}).items():
        lab.archive(uri, files)
    cases = dict(enumerate(filled(file["cases"], home=lab.home)))
    steps = [step_of(lab, f"Step{n}", case, file.get("scripts", {})) for n, case in cases.items()]
    functions = [lab.function("\n".join(c["code"]), f"Step{n}") for n, c in cases.items() if c["kind"] == "function"]
    definition = {"Version": "2020-12-01", "Parameters": file.get("parameters", []), "Steps": steps}
    return lab.run_definition(definition, functions=functions, environment=ENVIRONMENT, timeout_seconds=400)


def has(found: Any, expected: Any) -> bool:
    """Whether objects have the members that are expected, at any depth."""
    if isinstance(expected, dict):
        return all(name in found and has(found[name], member) for name, member in expected.items())
    return bool(found == expected)


@pytest.mark.parametrize(
    ("file", "number"),
    [
        pytest.param(file, n, id=f"{file}: {case['does']}")
        for file, content in FILES.items()
        for n, case in enumerate(content["cases"])
    ],
)
def test_a_step(
    runs: dict[str, Report | None], lab: Lab, tmp_path_factory: pytest.TempPathFactory, file: str, number: int
) -> None:
    if file not in runs:
        runs[file] = None
        runs[file] = run_file(file, tmp_path_factory.mktemp(file))
    report = runs[file]
    assert report
    name, lab = f"Step{number}", Lab(report.home.parent)
    record = report.record(name)
    job = record["Job"]
    places = {"home": lab.home, "folder": lab.folder, "python": sys.executable}
    case = filled(FILES[file]["cases"][number], name=name, job=job, cpus=os.cpu_count(), **places)
    status, expected = report.statuses[name], case.get("status", "Succeeded")
    assert status.startswith(expected.removesuffix("...").rstrip()) if expected.endswith("...") else status == expected
    assert "log" not in case or report.log(name) == case["log"]
    lines = report.log(name).splitlines() if {"lines", "printed", "printed_has"} & case.keys() else []
    assert set(case.get("lines", [])) <= set(lines)
    for host, text in case.get("host_logs", {}).items():
        assert (lab.home / "jobs" / job / host / "log.txt").read_text() == text
    if {"printed", "printed_has"} & case.keys():
        printed = next(json.loads(line) for line in reversed(lines) if line.startswith('{"'))
        assert "printed" not in case or printed == case["printed"]
        assert has(printed, case.get("printed_has", {}))
        assert not set(case.get("printed_lacks", [])) & set(printed.get("env", {}))
    assert has(record.get("Properties", {}), case.get("properties", {}))
    if "metrics" in case:
        values = {found["MetricName"]: found["Value"] for found in record["Properties"]["FinalMetricDataList"]}
        assert values == case["metrics"]
    for uri, text in case.get("stored", {}).items():
        assert lab.get(uri) == text
    for uri, files in case.get("packed", {}).items():
        assert lab.unpacked(uri) == files
    assert not [uri for uri in case.get("absent", []) if os.path.lexists(lab.path(uri))]
    if case["kind"] != "function":  # the job's own document says the same
        kind = "ProcessingJob" if case["kind"] == "processing" else "TrainingJob"
        assert record["Metadata"][kind]["Arn"].endswith(job)
        state = State(lab.home)
        document = state.get(kind, job)
        state.close()
        assert document
        assert (document[f"{kind}Status"] == "Completed") is (status == "Succeeded")
        assert document.get("FailureReason", "Succeeded") == status


@pytest.mark.parametrize("kind", REFUSED)
def test_what_a_job_cannot_have_here_is_refused_by_name_before_anything_runs(any_lab: Lab, kind: str) -> None:
    given = {"inputs": {"i": "s3://b/i"}, "outputs": ["o"]} if kind == "processing" else {"channels": {"c": "s3://b/c"}}
    steps = [
        step_of(any_lab, f"Step{n}", {**c, "kind": kind, "code": [], "given": given}, {})
        for n, c in enumerate(REFUSED[kind])
    ]
    report = any_lab.run(*steps)
    assert (report.code, report.stdout) == (2, "")
    for number, case in enumerate(REFUSED[kind]):
        lines = [line for line in report.stderr.splitlines() if line.startswith(f"Step 'Step{number}' ")]
        assert any(case["said"] in line for line in lines), (number, lines)
    assert not (any_lab.home / "jobs").exists()

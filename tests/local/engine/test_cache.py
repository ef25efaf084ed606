"""The step cache: what is a hit, what is a miss, how long, and what AWS would do instead."""

import json
import subprocess

import pytest

from pipeline.local.store.state import State
from tests.local.engine.conftest import CASES
from tests.local.lab import Json, Lab, Report, call, get, output_uri, parameter
from tests.local.samples import run_cli

CHANGES = json.loads((CASES / "changes.json").read_text())
CACHE = {"Enabled": True, "ExpireAfter": "P30D"}
X = {"ContinuousParameterRanges": [{"Name": "rate", "MinValue": "0", "MaxValue": "1"}]}
PREPARE = """
    import secrets, shutil
    from pathlib import Path
    shutil.copytree("/opt/ml/processing/input/raw", "/opt/ml/processing/output/o", dirs_exist_ok=True)
    print(len(list(Path("/opt/ml/processing/input/kept").iterdir())))
    Path("/opt/ml/processing/output/kept", secrets.token_hex(4)).touch()
"""
TRAIN = "open('/opt/ml/model/m', 'w').write('m'); open('/opt/ml/checkpoints/c', 'w')"


def cached_steps(lab: Lab) -> list[Json]:
    """A step of each kind that can be cached; the first adds to one of its inputs, the second writes checkpoints."""
    inputs = {name: lab.put(f"s3://bucket/{name}/a.txt", "one").removesuffix("/a.txt") for name in ("raw", "kept")}
    prep = lab.processing(
        "Prep", PREPARE, inputs=inputs, outputs=["o", "kept"], arguments=[get("Parameters.N")], environment={"A": "1"}
    )
    prep["Arguments"]["ProcessingOutputConfig"]["Outputs"][1]["S3Output"]["S3Uri"] = "s3://bucket/kept"
    more = {"CheckpointConfig": {"S3Uri": "s3://bucket/checkpoints"}}
    train = lab.training("Train", TRAIN, {"n": 1}, channels={"data": output_uri("Prep", "o")}, more=more)
    tune = lab.tuning("Tune", "open('/opt/ml/model/m', 'w'); print('score=1')", X, jobs=1)
    steps = [prep, train, tune, call("Call", {}, {"o": "Integer"})]
    return [{**step, "CacheConfig": CACHE} for step in steps]


def test_a_change_is_a_miss_here_by_the_bytes_and_as_on_aws_by_the_uri(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    (lab.folder / "beside.py").write_text("VALUE = 1\n")
    functions = [lab.function("import beside\ndef handler(event, context): return {'o': beside.VALUE}")]
    first = lab.run(*cached_steps(lab), functions=functions, parameters=[parameter("N", "Integer", 1)])
    assert (first.code, first.reused) == (0, [])

    def again(*options: str) -> Report:
        text = (lab.folder / "lab.json").read_text()
        return lab.run_definition(text, functions=functions, options=options)

    second = again()
    assert sorted(second.reused) == ["Call", "Prep", "Train", "Tune"]
    assert second.properties("Train") == first.properties("Train")
    assert second.step("Call")["outputs"] == {"o": "1"}
    assert second.step("Prep")["source_execution"] == first.document["execution_arn"]
    status = run_cli("status", "--home", lab.home, "--pipeline", "lab").stdout
    assert "by the bytes of their inputs; AWS compares" in status and "listing" in status
    found = []
    for change in CHANGES:
        subprocess.run(["bash", "-ec", change["command"]], cwd=lab.folder, check=True)
        options = change.get("options", [])
        runs = {"missed_on_aws": again(*options, "--cache", "as-on-aws"), "missed": again(*options)}
        rows = {kind: report.document["steps"] for kind, report in runs.items()}
        found.append({kind: " ".join(row["name"] for row in rows[kind] if not row["cache_hit"]) for kind in rows})
    assert [{**change, **missed} for change, missed in zip(CHANGES, found, strict=True)] == CHANGES
    assert runs["missed"].step("Call")["outputs"] == {"o": "2"}
    assert int(runs["missed"].log("Prep").split()[0]) > 8  # what the earlier ones added is there
    assert list(lab.folder.rglob("beside*.pyc")) == []  # which a later run might take for it


def test_a_result_expires_and_a_failure_or_a_step_without_caching_is_never_one(lab: Lab) -> None:
    brief = lab.processing("Brief", "", CacheConfig={"Enabled": True, "ExpireAfter": "P1DT2H"})
    off = lab.processing("Off", "", CacheConfig={"Enabled": False, "ExpireAfter": "P1D"})
    without = lab.processing("Without", "")
    failing = lab.processing("Failing", "raise SystemExit(1)", CacheConfig=CACHE, DependsOn=["Brief", "Off", "Without"])
    steps = [brief, off, without, failing]
    runs = [lab.run(*steps)]
    for hours in (25, 2):
        state = State(lab.home)
        for (key,) in state.rows("SELECT name FROM resources WHERE kind = 'CachedStep'"):
            kept = state.get("CachedStep", key) or {}
            state.put("CachedStep", key, {**kept, "created": kept["created"] - 3600 * hours})
        runs.append(lab.run(*steps))
    runs += [lab.run(*steps, options=[option]) for option in ("--cache=as-on-aws", "--no-cache", "--cache=off")]
    assert [report.reused for report in runs] == [[], ["Brief"], [], ["Brief"], [], []]
    assert {report.statuses["Failing"] for report in runs} == {"AlgorithmError: no output, exit code: 1"}
    done = run_cli("run", "--definition", lab.folder / "lab.json", "--home", lab.home, "--cache", "as-on-aws")
    assert "by the URIs of their inputs" in done.stdout
    refused = run_cli("run", "--target", "aws", "--no-cache", "--home", lab.home)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--no-cache is the local target's" in refused.stderr

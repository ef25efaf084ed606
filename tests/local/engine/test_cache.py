"""The step cache: what is a hit, what is a miss, how long, and what AWS would do instead."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.local.store.state import State
from tests.local.lab import Lab, call, get, output_uri, parameter, source
from tests.local.samples import run_cli

CACHE = {"Enabled": True, "ExpireAfter": "P30D"}
X = {"ContinuousParameterRanges": [{"Name": "rate", "MinValue": "0", "MaxValue": "1"}]}
COPY = """
    import shutil
    shutil.copytree("/opt/ml/processing/input/raw", "/opt/ml/processing/output/o", dirs_exist_ok=True)
"""


def chain(lab: Lab) -> list[dict[str, Any]]:
    """A step of each kind that can be cached, each reading the one before."""
    lab.put("s3://bucket/raw/a.txt", "one")
    channel = {"data": output_uri("Prep", "o")}
    prep = lab.processing("Prep", COPY, inputs={"raw": "s3://bucket/raw"}, outputs=["o"], environment={"A": "1"})
    train = lab.training("Train", "open('/opt/ml/model/m', 'w').write('m')", {"n": 1}, channels=channel)
    tune = lab.tuning("Tune", "open('/opt/ml/model/m', 'w'); print('score=1')", X, jobs=1, channels=channel)
    asked = call("Call", {"model": get("Steps.Train.ModelArtifacts.S3ModelArtifacts")}, {"o": "String"})
    return [{**step, "CacheConfig": CACHE} for step in (prep, train, tune, asked)]


def test_unchanged_steps_are_reused_whoever_writes_the_same_bytes_again(lab: Lab) -> None:
    functions = [lab.function("def handler(event, context): return {'o': 'x'}")]
    first = lab.run(*chain(lab), functions=functions)
    assert (first.code, first.reused) == (0, [])
    second = lab.run(*chain(lab), functions=functions)  # which stores every input anew
    assert (second.code, second.reused) == (0, ["Prep", "Train", "Tune", "Call"])
    assert second.properties("Train") == first.properties("Train")
    assert second.step("Call")["outputs"] == {"o": "x"}
    assert second.step("Prep")["source_execution"] == first.document["execution_arn"]
    status = run_cli("status", "--home", lab.home, "--pipeline", "lab").stdout
    assert "by the bytes of their inputs; AWS compares" in status
    for option in ("--no-cache", "--cache=off"):
        assert lab.run(*chain(lab)[:1], options=[option]).reused == []
    lab.put("s3://bucket/raw/a.txt", "two")
    words = ["--definition", lab.folder / "lab.json", "--home", lab.home]
    done = run_cli("run", *words, "--cache", "as-on-aws")
    assert "by the URIs of their inputs, as on AWS" in done.stdout
    refused = run_cli("run", "--target", "aws", "--no-cache", "--home", lab.home)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--no-cache is the local target's" in refused.stderr


def same_size_and_time(lab: Lab) -> None:
    """Change an input so that only its content and the time of its status tell."""
    path = lab.path("s3://bucket/raw/a.txt")
    times = path.stat()
    path.write_text("six")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def newest(lab: Lab, prefix: str, name: str) -> Path:
    """The object of that name that was written last."""
    return max(lab.path(f"s3://bucket/{prefix}").rglob(name), key=lambda path: path.stat().st_mtime_ns)


RAW = "s3://bucket/raw"
CHANGES: dict[str, tuple[Callable[[Lab], object], str]] = {
    "an input in place": (lambda lab: lab.put("s3://bucket/raw/a.txt", "two"), "Prep Train"),
    "an input with the same size and time": (same_size_and_time, "Prep Train"),
    "a new input": (lambda lab: lab.put("s3://bucket/raw/b.txt", "new"), "Prep Train"),
    "an input's name": (lambda lab: lab.path(f"{RAW}/a.txt").rename(lab.path(f"{RAW}/c.txt")), "Prep Train"),
    "the code": (lambda lab: lab.put("s3://bucket/code/Prep/script.py", source(COPY) + "print()"), "Prep"),
    "the training code": (
        lambda lab: lab.archive("s3://bucket/code/Train/sourcedir.tar.gz", {"train.py": "print()"}), "Train",
    ),
    "an output": (lambda lab: newest(lab, "out", "c.txt").write_text("!"), "Prep"),
    "a model that is gone": (lambda lab: newest(lab, "models", "*.gz").unlink(), "Train"),
    "nothing": (lambda lab: None, ""),
}  # fmt: skip


def test_a_change_of_bytes_is_a_miss_here_and_a_hit_as_on_aws(lab: Lab) -> None:
    steps = chain(lab)[:2]
    assert lab.run(*steps).code == 0
    missed, missed_on_aws = {}, {}
    for change, (edit, _) in CHANGES.items():
        edit(lab)
        rows = lab.run(*steps, options=["--cache", "as-on-aws"]).document["steps"]
        missed_on_aws[change] = " ".join(row["name"] for row in rows if not row["cache_hit"])
        rows = lab.run(*steps).document["steps"]
        missed[change] = " ".join(row["name"] for row in rows if not row["cache_hit"])
    assert missed == {change: expected for change, (_, expected) in CHANGES.items()}
    after_a_new_output = {"the training code": "Train", "a model that is gone": "Train"}  # Prep wrote to another URI
    assert missed_on_aws == {**dict.fromkeys(CHANGES, ""), **after_a_new_output}


def test_arguments_and_environment_count_and_instances_do_not_in_both_ways(lab: Lab) -> None:
    for options in ([], ["--cache", "as-on-aws"]):
        step = lab.processing("Prep", "", arguments=["--n", get("Parameters.N"), str(options)], CacheConfig=CACHE)
        parameters = [parameter("N", "Integer", 1)]
        assert lab.run(step, parameters=parameters, options=options).reused == []
        assert lab.run(step, parameters=parameters, options=[*options, "--param", "N=2"]).reused == []
        step["Arguments"]["ProcessingResources"]["ClusterConfig"]["InstanceType"] = "ml.c5.xlarge"
        assert lab.run(step, parameters=parameters, options=options).reused == ["Prep"]
        step["Arguments"]["Environment"] = {"A": "1"}
        assert lab.run(step, parameters=parameters, options=options).reused == []


def test_what_a_job_adds_to_an_input_of_its_own_is_no_change(lab: Lab) -> None:
    code = """
        import secrets
        from pathlib import Path
        print(sorted(path.name for path in Path("/opt/ml/processing/input/kept").iterdir()))
        Path("/opt/ml/processing/output/kept", secrets.token_hex(4)).touch()
    """
    lab.put("s3://bucket/kept/README", "about")
    lab.put("s3://bucket/raw/a.txt", "one")
    inputs = {"kept": "s3://bucket/kept", "raw": "s3://bucket/raw"}
    step = lab.processing("Prep", code, inputs=inputs, outputs=["kept"], CacheConfig=CACHE)
    step["Arguments"]["ProcessingOutputConfig"]["Outputs"][0]["S3Output"]["S3Uri"] = "s3://bucket/kept"
    assert lab.run(step).reused == []
    lab.put("s3://bucket/kept/of another execution", "x")
    assert lab.run(step).reused == ["Prep"]
    lab.put("s3://bucket/raw/a.txt", "two")
    again = lab.run(step)
    assert again.reused == []
    assert again.log("Prep").count("'") == 2 * 3  # what the first one added is there


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
    runs.append(lab.run(*steps, options=["--cache", "as-on-aws"]))
    assert [report.reused for report in runs] == [[], ["Brief"], [], ["Brief"]]
    assert {report.statuses["Failing"] for report in runs} == {"AlgorithmError: no output, exit code: 1"}


def test_what_lies_beside_a_handler_counts_and_checkpoints_that_a_job_wrote_itself_do_not(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    beside = lab.folder / "beside.py"
    beside.write_text("VALUE = 'one'\n")
    functions = [lab.function("import beside\ndef handler(event, context): return {'o': beside.VALUE}")]
    asked = call("Call", {}, {"o": "String"}, CacheConfig=CACHE)
    more = {"CheckpointConfig": {"S3Uri": "s3://bucket/ckpt"}}
    train = lab.training("Train", "open('/opt/ml/checkpoints/c', 'w')", more=more, CacheConfig=CACHE)
    assert lab.run(asked, train, functions=functions).reused == []
    assert sorted(lab.run(asked, train, functions=functions).reused) == ["Call", "Train"]
    beside.write_text("VALUE = 'two'\n")
    report = lab.run(asked, train, functions=functions, options=["--cache", "as-on-aws"])
    assert (sorted(report.reused), report.step("Call")["outputs"]) == (["Call", "Train"], {"o": "one"})
    report = lab.run(asked, train, functions=functions)
    assert (report.reused, report.step("Call")["outputs"]) == (["Train"], {"o": "two"})
    assert list(lab.folder.rglob("beside*.pyc")) == []  # which a later run might take for it

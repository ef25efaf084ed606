"""Jobs that take several steps, runs or users to see; what a single step finds and leaves is in test_cases."""

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from tests.local.lab import Lab, Report, call, compare, condition, get, json_get, output_uri
from tests.local.samples import wait_until, wheel

LARGE = bytes(17 * 2**20)  # so large that it is not copied


def test_outputs_and_metrics_are_read_by_the_next_step_and_by_conditions(lab: Lab) -> None:
    code = """
        from pathlib import Path
        Path("/opt/ml/processing/output/train/c.txt").write_text("kept")
        Path("/opt/ml/processing/output/report/evaluation.json").write_text('{"m": [{"value": 0.5}]}')
        Path("/opt/ml/output/message").write_text("done well")
    """
    file = {"PropertyFileName": "Report", "OutputName": "report", "FilePath": "evaluation.json"}
    prep = lab.processing("Prep", code, outputs=["train", "report"], PropertyFiles=[file])
    train = lab.training("Train", "print('val:acc=0.75')", metrics={"val:acc": "acc=([0-9.]+)"})
    after = lab.processing(
        "After",
        "import sys; print(sys.argv[1], open('/opt/ml/processing/input/train/c.txt').read())",
        inputs={"train": output_uri("Prep", "train")},
        arguments=[get("Steps.Prep.ExitMessage")],
    )
    metric = get("Steps.Train.FinalMetricDataList['val:acc'].Value")
    conditions = [compare("GreaterThan", json_get("Prep", "m[0].value"), 0.4), compare("Equals", metric, 0.75)]
    report = lab.run(condition("Gate", conditions, [after]), prep, train)
    assert report.statuses == dict.fromkeys(["Prep", "Train", "Gate", "After"], "Succeeded")
    assert report.log("After") == "done well kept\n"


def test_what_a_script_does_to_its_inputs_stays_in_the_job_unless_an_output_lies_there(lab: Lab) -> None:
    names = ["appended.txt", "overwritten.txt", "truncated.txt", "removed.txt"]
    for name in names:
        lab.put(f"s3://bucket/data/{name}", "original")
    for place in ("large", "both"):
        lab.put(f"s3://bucket/{place}/big.bin", b"original" + LARGE)
    code = """
        import os
        from pathlib import Path
        data, large, both = (Path("/opt/ml/processing/input") / name for name in ("data", "large", "both"))
        with (data / "appended.txt").open("a") as stream:
            stream.write(" and more")
        (data / "overwritten.txt").write_text("changed")
        os.truncate(data / "truncated.txt", 1)
        (data / "removed.txt").unlink()
        for folder in (data, large, both):
            (folder / "new").write_text("new")
        for folder in (large, both):
            with (folder / "big.bin").open("r+b") as stream:
                stream.write(b"modified")
        print((large / "big.bin").read_bytes()[:8], sorted(path.name for path in large.iterdir()))
    """
    inputs = {name: f"s3://bucket/{name}" for name in ("data", "large", "both")}
    step = lab.processing("Prep", code, inputs=inputs, outputs=["o"])
    output = step["Arguments"]["ProcessingOutputConfig"]["Outputs"][0]["S3Output"]
    output |= {"S3Uri": "s3://bucket/out", "LocalPath": "/opt/ml/processing/input/both"}
    report = lab.run(step)
    assert report.statuses == {"Prep": "Succeeded"}
    assert report.log("Prep") == "b'modified' ['big.bin', 'new']\n"
    assert {p.name: p.read_text() for p in lab.path("s3://bucket/data").iterdir()} == dict.fromkeys(names, "original")
    for place in ("large", "both"):
        [file] = lab.path(f"s3://bucket/{place}").iterdir()
        assert file.read_bytes()[:8] == b"original"
    assert lab.get("s3://bucket/out/new") == "new"


def test_a_change_of_what_a_manifest_lists_is_a_miss_of_the_cache(lab: Lab) -> None:
    lab.put("s3://bucket/data/a.txt", "a")
    manifest = lab.put("s3://bucket/list", json.dumps([{"prefix": "s3://bucket/data/"}, "a.txt"]))
    prep = lab.processing("Prep", "", inputs={"m": manifest}, CacheConfig={"Enabled": True})
    prep["Arguments"]["ProcessingInputs"][0]["S3Input"]["S3DataType"] = "ManifestFile"
    assert [lab.run(prep).reused for _ in range(2)] == [[], ["Prep"]]
    lab.put("s3://bucket/data/a.txt", "changed")
    assert lab.run(prep).reused == []


def test_the_same_artifacts_give_the_same_bytes_and_only_what_shrinks_is_made_smaller(lab: Lab) -> None:
    code = """
        import random
        for name, content in (("weights", random.Random(0).randbytes(300_000)), ("text", b"x" * {count})):
            open(f"/opt/ml/model/{name}", "wb").write(content)
    """
    counts = {"A": "9", "B": "9", "C": "3_000_000"}
    report = lab.run(*(lab.training(name, code.replace("{count}", count)) for name, count in counts.items()))
    uris = [report.properties(name)["ModelArtifacts"]["S3ModelArtifacts"] for name in counts]
    first, same, large = (lab.path(uri).read_bytes() for uri in uris)
    assert first == same
    assert 300_000 < len(first) < 320_000
    assert len(large) < 400_000


def test_checkpoints_are_kept_while_a_job_runs_and_a_retry_of_the_execution_goes_on_from_them(lab: Lab) -> None:
    code = """
        import time
        from pathlib import Path
        epoch = Path("/opt/ml/checkpoints/epoch")
        print("begins after", epoch.exists() and epoch.read_text(), flush=True)
        if not epoch.exists():
            for number in range(3):
                epoch.write_text(str(number))
            time.sleep(60)
    """
    place = {"Std:Join": {"On": "/", "Values": ["s3://bucket/kept", get("Execution.PipelineExecutionId")]}}
    step = lab.training("Train", code, more={"CheckpointConfig": {"S3Uri": place}})  # in the default folder
    words = lab.command({"Version": "2020-12-01", "Steps": [step]})
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: list(lab.path("s3://bucket/kept").glob("*/epoch")))
        process.kill()
    retry = [*words[:2], "retry", "--home", str(lab.home), "--pipeline", "lab", "--json"]
    done = subprocess.run(retry, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [found] = json.loads(done.stdout)["steps"]
    assert Path(found["log"]).read_text() == "begins after 2\n"


def test_requirements_are_installed_for_the_job_alone_and_torchrun_leaves_nothing_behind(lab: Lab) -> None:
    before = set(Path(tempfile.gettempdir()).glob("torchelastic_*"))
    name, content = wheel("local-made", "1.0")
    files: dict[str, Any] = {"t.py": "import local_made; print('FROM', local_made.__file__)", name: content}
    files["r.txt"] = "--no-index\n--find-links .\nlocal-made==1.0\nnumpy\n"
    code = {"entry_script": "t.py", "requirements": "r.txt"}
    report = lab.run(lab.drivers("Train", files, code, distributed={"process_count_per_node": 1}))
    assert report.statuses == {"Train": "Succeeded"}
    [line] = [line for line in report.log("Train").splitlines() if line.startswith("FROM")]
    assert str(lab.home) in line
    assert set(Path(tempfile.gettempdir()).glob("torchelastic_*")) <= before


def test_without_mounts_the_drivers_find_the_jobs_tree_and_several_hosts_are_refused(any_lab: Lab) -> None:
    code = "import os, sys; print('HERE', os.getcwd(), os.environ['SM_MODEL_DIR'], sys.argv[1:]); sys.exit(2 * ({}))"
    steps = [
        any_lab.drivers(name, {"t.py": code.format(text)}, {"entry_script": "t.py"}, {"a": 1})
        for name, text in (("Good", "0"), ("Bad", "1"), ("Hosts", "0"))
    ]
    steps[2]["Arguments"]["ResourceConfig"]["InstanceCount"] = 2
    report = any_lab.run(*steps, environment={"LOCAL_ISOLATION": "off"})
    tree = f"{any_lab.home}/jobs/{report.record('Good')['Job']}/ml"
    assert report.statuses["Good"] == "Succeeded"
    assert f"HERE {tree}/input/data/code {tree}/model ['--a', '1']" in report.log("Good")
    assert report.statuses["Bad"].endswith("exit code: 2")
    assert report.statuses["Hosts"].startswith("ClientError: The job has 2 hosts, which could not find each other")


def test_hosts_find_each_other_for_a_user_without_rights(lab: Lab) -> None:
    code = "import os, socket; print(os.getuid(), len({socket.gethostbyname(f'algo-{n}') for n in (1, 2)}))"
    train, prepare = lab.training("Train", code), lab.processing("Prepare", code)
    train["Arguments"]["ResourceConfig"]["InstanceCount"] = 2
    prepare["Arguments"]["ProcessingResources"]["ClusterConfig"]["InstanceCount"] = 2
    nobody = ["unshare", "--user", "--map-user=65534", "--map-group=65534"]
    words = [*nobody, *lab.command({"Version": "2020-12-01", "Steps": [train, prepare]})]
    done = subprocess.run(words, cwd=lab.folder, capture_output=True, text=True, check=False)
    report = Report(lab.home, done.returncode, done.stdout, done.stderr)
    assert report.statuses == {"Train": "Succeeded", "Prepare": "Succeeded"}
    assert [report.log(name) for name in ("Train", "Prepare")] == ["65534 2\n"] * 2


def test_the_outputs_of_a_function_have_the_declared_types_downstream(lab: Lab) -> None:
    kinds = {"s": "String", "i": "Integer", "f": "Float", "b": "Boolean", "nested": "String"}
    function = lab.function(
        """
        def handler(event, context):
            return {"s": 5, "i": "3", "f": 1, "b": "true", "nested": {"a": [1]}, "not declared": object is None}
        """
    )
    (lab.folder / "pipeline.py").write_text("raise SystemExit('the working directory is not searched')")
    out = {name: get(f"Steps.Call.OutputParameters['{name}']") for name in kinds}
    equal = [compare("Equals", out[name], value) for name, value in (("s", "5"), ("i", 3), ("b", True))]
    printing = lab.processing("Print", "import sys; print(sys.argv[1:])", arguments=list(out.values()))
    gate = condition("Gate", [*equal, compare("LessThan", out["f"], 1.5)], [printing])
    again = call("Again", {"n": out["i"]}, {"i": "Integer"}, function="fn:$LATEST")
    report = lab.run(call("Call", {}, kinds), gate, again, functions=[function])
    assert report.statuses == dict.fromkeys(["Call", "Gate", "Print", "Again"], "Succeeded")
    assert report.log("Print") == "['5', '3', '1.0', 'true', '{\"a\": [1]}']\n"
    assert report.step("Call")["outputs"] == {"s": "5", "i": "3", "f": "1.0", "b": "True", "nested": '{"a": [1]}'}
    missing = lab.run(call("Call", {}, {}), functions=["fn=nowhere.py:handler"])
    assert (missing.code, missing.stderr) == (2, "The code of Lambda function 'fn' is not there: nowhere.py.\n")
    wrong = lab.run(call("Call", {}, {"x": "P1D"}), functions=[function])
    assert (wrong.code, wrong.stdout) == (2, "")
    assert "OutputType must be one of 'String', 'Integer', 'Float' and 'Boolean', but got 'P1D'" in wrong.stderr

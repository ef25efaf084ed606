"""Processing jobs: what a script finds in its container, what becomes of what it leaves, and how it may end."""

import json
import os
import sys
from pathlib import Path

from pipeline.local.store.state import State
from tests.local.lab import Lab, compare, condition, get, join, json_get, output_uri, parameter, s3_input
from tests.local.samples import processes_of

REPORT = {"PropertyFileName": "Report", "OutputName": "report", "FilePath": "sub/evaluation.json"}


def test_a_script_finds_its_container(lab: Lab) -> None:
    lab.put("s3://bucket/data/deep/er/a.txt", "A")
    lab.put("s3://bucket/data/b.txt", "B")
    step = lab.processing(
        "Prep",
        """
        import json, os, sys
        from pathlib import Path
        root = Path("/opt/ml/processing")
        config = json.load(open("/opt/ml/config/processingjobconfig.json"))
        print(json.dumps({
            "argv": sys.argv, "cwd": os.getcwd(), "executable": sys.executable,
            "files": sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()),
            "output": (root / "output/train").is_dir(),
            "job": config["ProcessingJobName"], "arn": config["ProcessingJobArn"],
            "local_path": config["ProcessingInputs"][0]["S3Input"]["LocalPath"],
            "resources": json.load(open("/opt/ml/config/resourceconfig.json")),
            "environment": {k: v for k, v in os.environ.items()
                            if k.startswith(("SM_", "SAGEMAKER_", "AWS_PROFILE", "OWN", "TRAINING_"))},
        }))
        """,
        inputs={"raw": "s3://bucket/data/", "one": "s3://bucket/data/deep/er/a.txt"},
        outputs=["train"],
        arguments=["--n", get("Parameters.N"), "--f", get("Parameters.Flag"), join("-", 1.5, get("Parameters.Flag"))],
        environment={"OWN": "x=/opt/mlflow:/opt/ml/processing", "OWN_N": get("Parameters.N")},
    )
    report = lab.run(
        step,
        parameters=[parameter("N", "Integer", 3), parameter("Flag", "Boolean", True)],
        environment={"AWS_PROFILE": "mine", "SM_HPS": "{}", "PYTHONPATH": "/nowhere"},
    )
    assert report.statuses == {"Prep": "Succeeded"}
    found = report.printed("Prep")
    job = report.record("Prep")["Job"]
    assert found == {
        "argv": ["/opt/ml/processing/input/code/script.py", "--n", "3", "--f", "true", "1.5-true"],
        "cwd": "/opt/ml",
        "executable": sys.executable,
        "files": ["input/code/script.py", "input/one/a.txt", "input/raw/b.txt", "input/raw/deep/er/a.txt"],
        "output": True,
        "job": job,
        "arn": f"arn:aws:sagemaker:us-east-1:000000000000:processing-job/{job}",
        "local_path": "/opt/ml/processing/input/raw",
        "resources": {"current_host": "algo-1", "hosts": ["algo-1"]},
        "environment": {"OWN": "x=/opt/mlflow:/opt/ml/processing", "OWN_N": "3"},
    }


def test_outputs_are_uploaded_and_read_by_the_next_step_and_by_a_condition(lab: Lab) -> None:
    prep = lab.processing(
        "Prep",
        """
        import json, os
        from pathlib import Path
        out = Path("/opt/ml/processing/output")
        (out / "train/a/b").mkdir(parents=True)
        (out / "train/a/b/c.txt").write_text("kept")
        (out / "train/.model.metadata").write_text("kept too")
        os.symlink("/etc/passwd", out / "train/link")
        (out / "report/sub").mkdir()
        (out / "report/sub/evaluation.json").write_text(json.dumps({"m": [{"value": 0.5}]}))
        Path("/opt/ml/output/message").write_text("done well")
        """,
        outputs=["train", "report"],
        PropertyFiles=[REPORT],
    )
    after = lab.processing(
        "After",
        """
        import sys
        from pathlib import Path
        print(sys.argv[1], sorted(str(p) for p in Path("/opt/ml/processing/input/train").rglob("*") if p.is_file()))
        """,
        inputs={"train": output_uri("Prep", "train")},
        arguments=[get("Steps.Prep.ExitMessage")],
    )
    gate = condition("Gate", [compare("GreaterThan", json_get("Prep", "m[0].value"), 0.4)], [after])
    report = lab.run(gate, prep)
    assert report.statuses == {"Prep": "Succeeded", "Gate": "Succeeded", "After": "Succeeded"}
    root = "/opt/ml/processing/input/train"
    assert report.log("After") == f"done well ['{root}/.model.metadata', '{root}/a/b/c.txt']\n"


def test_what_a_script_does_to_its_inputs_stays_in_the_job(lab: Lab) -> None:
    for name in ("appended.txt", "overwritten.txt", "truncated.txt", "removed.txt"):
        lab.put(f"s3://bucket/data/{name}", "original")
    lab.put("s3://bucket/large/big.bin", b"original" + bytes(17 * 2**20))
    step = lab.processing(
        "Prep",
        """
        import os
        from pathlib import Path
        data, big = Path("/opt/ml/processing/input/data"), Path("/opt/ml/processing/input/large/big.bin")
        with (data / "appended.txt").open("a") as stream:
            stream.write(" and more")
        (data / "overwritten.txt").write_text("changed")
        os.truncate(data / "truncated.txt", 1)
        (data / "removed.txt").unlink()
        (data / "new.txt").write_text("new")
        with big.open("r+b") as stream:
            stream.write(b"modified")
        (big.parent / "new.bin").write_bytes(b"new")
        print(big.read_bytes()[:8], sorted(p.name for p in big.parent.iterdir()))
        """,
        inputs={"data": "s3://bucket/data", "large": "s3://bucket/large"},
    )
    report = lab.run(step)
    assert report.statuses == {"Prep": "Succeeded"}
    assert report.log("Prep") == "b'modified' ['big.bin', 'new.bin']\n"
    texts = {path.name: path.read_text() for path in lab.path("s3://bucket/data").iterdir()}
    assert texts == dict.fromkeys(["appended.txt", "overwritten.txt", "truncated.txt", "removed.txt"], "original")
    assert lab.path("s3://bucket/large/big.bin").read_bytes()[:8] == b"original"
    assert [path.name for path in lab.path("s3://bucket/large").iterdir()] == ["big.bin"]


def test_where_inputs_and_outputs_may_lie(lab: Lab) -> None:
    """A prefix stands for every key that begins with it; an output may lie in a large input, or be removed."""
    lab.put("s3://bucket/large/big.bin", bytes(17 * 2**20))
    for key in ("part-0.csv", "part-2/a.csv", "other.csv"):
        lab.put(f"s3://bucket/data/{key}", key)
    code = """
        import os
        from pathlib import Path
        root = Path("/opt/ml/processing/input")
        (root / "large/new.txt").write_text("new")
        os.rmdir("/opt/ml/processing/output/gone")
        print(sorted(str(p.relative_to(root / "parts")) for p in root.rglob("*.csv")))
    """
    inputs = {"parts": "s3://bucket/data/part-", "large": "s3://bucket/large"}
    step = lab.processing("Prep", code, inputs=inputs, outputs=["o", "gone"])
    output = step["Arguments"]["ProcessingOutputConfig"]["Outputs"][0]["S3Output"]
    output |= {"S3Uri": "s3://bucket/out", "LocalPath": "/opt/ml/processing/input/large"}
    report = lab.run(step)
    assert report.statuses == {"Prep": "Succeeded"}
    assert report.log("Prep") == "['part-0.csv', 'part-2/a.csv']\n"
    assert lab.get("s3://bucket/out/new.txt") == "new"


def test_a_framework_processor_unpacks_its_source_and_runs_it(lab: Lab) -> None:
    case = json.loads((Path(__file__).parents[1] / "cases" / "framework_processor.json").read_text())
    lab.put("s3://bucket/source/runproc.sh", case["runproc.sh"])
    files = {
        "main.py": "import sys, lib, os; open('/opt/ml/processing/output/o/x', 'w').write(lib.V); print(sys.argv)",
        "lib.py": "V = 'from the bundle'",
        "requirements.txt": "numpy\n",
    }
    lab.archive("s3://bucket/source/sourcedir.tar.gz", files)
    lab.put("s3://bucket/source/install_requirements.py", "import sys; print('asked for', *sys.argv[1:])")
    report = lab.run_definition(case["definition"])
    assert report.statuses == {"Fw": "Succeeded"}
    assert report.log("Fw").splitlines()[-2:] == ["asked for requirements.txt", "['main.py', '--x', 'a b']"]
    assert lab.get("s3://bucket/out/x") == "from the bundle"


ENDINGS = {
    "import sys; print('the reason', file=sys.stderr); sys.exit(3)": "AlgorithmError: the reason, exit code: 3",
    "import sys; sys.exit(137)": "AlgorithmError: no output, exit code: 137",
    "import ctypes; print('now', flush=True); ctypes.string_at(0)": "AlgorithmError: now, exit code: 139",
    "import os; print('x'); os.kill(os.getpid(), 9)": (
        "InternalServerError: the job's process was killed from outside; its last line: x"
    ),
    "open('/opt/ml/output/message', 'w').write('said so'); raise SystemExit('other')": (
        "AlgorithmError: said so, exit code: 1"
    ),
    "import time; print('slow', flush=True); time.sleep(60)": (
        "ClientError: the job ran longer than MaxRuntimeInSeconds = 2 and was ended."
    ),
}


def test_how_a_script_ends_is_told(lab: Lab) -> None:
    steps = [lab.processing(f"Step{number}", code) for number, code in enumerate(ENDINGS)]
    steps[-1]["Arguments"]["StoppingCondition"] = {"MaxRuntimeInSeconds": 2}
    report = lab.run(*steps)
    assert (report.code, report.document["status"]) == (1, "Failed")
    assert report.statuses == {step["Name"]: reason for step, reason in zip(steps, ENDINGS.values(), strict=True)}


def test_a_flood_of_output_without_lines_or_in_no_encoding_is_kept(lab: Lab) -> None:
    step = lab.processing(
        "Flood",
        """
        import sys
        for _ in range(160):
            sys.stdout.buffer.write(b"x" * 65536)
        sys.stdout.buffer.write(b"\\xff\\xfe\\x00 caf\\xe9\\n" * 1000 + b"the end")
        sys.exit(2)
        """,
    )
    report = lab.run(step)
    assert report.statuses == {"Flood": "AlgorithmError: the end, exit code: 2"}
    log = lab.home / "jobs" / report.record("Flood")["Job"] / "log.txt"
    assert log.stat().st_size == 160 * 65536 + 1000 * 9 + 7
    assert report.step("Flood")["seconds"] < 30


def test_nothing_that_a_script_starts_outlives_it(lab: Lab) -> None:
    step = lab.processing(
        "Daemon",
        """
        import os, subprocess, sys, time
        sleeper = "import os, time; open(f'/opt/ml/processing/output/pids/{os.getpid()}', 'w'); time.sleep(61.5)"
        subprocess.Popen([sys.executable, "-c", sleeper])
        subprocess.Popen([sys.executable, "-c", sleeper], start_new_session=True)
        subprocess.run(["sh", "-c", f'setsid {sys.executable} -c "{sleeper}" & exit 0'])
        while len(os.listdir("/opt/ml/processing/output/pids")) < 3:
            time.sleep(0.01)
        """,
        outputs=["pids"],
    )
    report = lab.run(step)
    assert report.statuses == {"Daemon": "Succeeded"}
    assert report.step("Daemon")["seconds"] < 30
    assert len([path for path in lab.path("s3://bucket/out").rglob("*") if path.is_file()]) == 3
    assert not processes_of(lab.home)


def test_what_a_job_cannot_be_given_fails_its_step(lab: Lab) -> None:
    lab.put("s3://bucket/data/a.txt", "A")
    policies = [{"ExceptionType": ["SageMaker.JOB_INTERNAL_ERROR"]}]
    program = lab.processing("Program", "", RetryPolicies=policies)
    program["Arguments"]["AppSpecification"]["ContainerEntrypoint"] = ["no-such-program"]
    missing = lab.processing("Missing", "", inputs={"raw": "s3://bucket/none/"})
    outside = lab.processing("Outside", "")
    outside["Arguments"]["ProcessingInputs"].append(s3_input("x", "s3://bucket/data", "/opt/ml/processing/../../../x"))
    nowhere = lab.processing("Nowhere", "", outputs=["o"])
    nowhere["Arguments"]["ProcessingOutputConfig"]["Outputs"][0]["S3Output"]["S3Uri"] = "file:///tmp/o"
    report = lab.run(program, missing, outside, nowhere)
    assert report.statuses == {
        "Program": "ClientError: The program 'no-such-program' could not be started: No such file or directory.",
        "Missing": f"ClientError: s3://bucket/none/ does not exist in the local S3 at {lab.home}/s3.",
        "Outside": "ClientError: LocalPath '/opt/ml/processing/../../../x' is not below /opt/ml, which is all "
        "that a job has here.",
        "Nowhere": "ClientError: 'file:///tmp/o' is not a usable S3 URI; expected s3://bucket/key.",
    }
    assert not os.path.lexists("/x")
    record, state = report.record("Program"), State(lab.home)
    assert record["AttemptCount"] == 1
    assert record["Metadata"]["ProcessingJob"]["Arn"].endswith(record["Job"])
    job = state.get("ProcessingJob", record["Job"]) or {}
    state.close()
    assert (job["ProcessingJobStatus"], job["FailureReason"]) == ("Failed", report.statuses["Program"])


def test_the_python_of_any_image_is_this_one(lab: Lab) -> None:
    programs = {"Conda": "/miniconda3/bin/python", "Debian": "/usr/bin/python3", "Old": "python3.8"}
    steps = [lab.processing(name, "import sys; print(sys.executable)") for name in programs]
    for step in steps:
        step["Arguments"]["AppSpecification"]["ContainerEntrypoint"][0] = programs[step["Name"]]
    report = lab.run(*steps)
    assert {report.log(name) for name in programs} == {f"{sys.executable}\n"}


def test_continuous_outputs_are_uploaded_while_a_job_runs_also_if_it_fails(lab: Lab) -> None:
    code = """
        import os, time
        from pathlib import Path
        for name in ("live", "late"):
            Path(f"/opt/ml/processing/output/{name}/x").write_text(name)
        ends = time.monotonic() + 30
        while not Path(os.environ["UPLOADED"]).exists() and time.monotonic() < ends:
            time.sleep(0.05)
        raise SystemExit("seen" if time.monotonic() < ends else "not seen")
    """
    uploaded = str(lab.path("s3://bucket/live/x"))
    step = lab.processing("Prep", code, outputs=["live", "late"], environment={"UPLOADED": uploaded})
    live, late = (output["S3Output"] for output in step["Arguments"]["ProcessingOutputConfig"]["Outputs"])
    live.update(S3Uri="s3://bucket/live", S3UploadMode="Continuous")
    late.update(S3Uri="s3://bucket/late")
    assert lab.run(step).statuses == {"Prep": "AlgorithmError: seen, exit code: 1"}
    assert lab.get("s3://bucket/live/x") == "live"
    assert not lab.path("s3://bucket/late").exists()


TELL = """
    import json
    from pathlib import Path
    me = json.load(open("/opt/ml/config/resourceconfig.json"))
    inputs = Path("/opt/ml/processing/input")
    seen = {kind: sorted(p.name for p in (inputs / kind).iterdir()) for kind in ("all", "shared")}
    output = Path("/opt/ml/processing/output/o")
    (output / f"{me['current_host']}.json").write_text(json.dumps({**me, **seen}))
    (output / "common").write_text("the same")
    print("I am", me["current_host"])
"""


def test_each_instance_knows_itself_and_gets_its_share_and_all_outputs_merge(lab: Lab) -> None:
    for number in range(5):
        lab.put(f"s3://bucket/data/{number}.txt", "x")
    inputs = {"all": "s3://bucket/data", "shared": "s3://bucket/data"}
    step = lab.processing("Prep", TELL, inputs=inputs, outputs=["o"])
    step["Arguments"]["ProcessingResources"]["ClusterConfig"]["InstanceCount"] = 3
    step["Arguments"]["ProcessingInputs"][1]["S3Input"]["S3DataDistributionType"] = "ShardedByS3Key"
    step["Arguments"]["ProcessingOutputConfig"]["Outputs"][0]["S3Output"]["S3Uri"] = "s3://bucket/o"
    report = lab.run(step)
    assert report.statuses == {"Prep": "Succeeded"}
    hosts = ["algo-1", "algo-2", "algo-3"]
    told = {host: json.loads(lab.get(f"s3://bucket/o/{host}.json")) for host in hosts}
    everything = [f"{number}.txt" for number in range(5)]
    for host in hosts:
        assert (told[host]["current_host"], told[host]["hosts"], told[host]["all"]) == (host, hosts, everything)
    assert [told[host]["shared"] for host in hosts] == [["0.txt", "3.txt"], ["1.txt", "4.txt"], ["2.txt"]]
    assert sorted(path.name for path in lab.path("s3://bucket/o").iterdir()) == [
        *(f"{h}.json" for h in hosts),
        "common",
    ]
    assert report.log("Prep") == "I am algo-1\n"
    folder = lab.home / "jobs" / report.record("Prep")["Job"]
    assert (folder / "algo-3" / "log.txt").read_text() == "I am algo-3\n"


def test_an_instance_that_fails_ends_the_others_and_the_job(lab: Lab) -> None:
    code = """
        import json, sys, time
        if json.load(open("/opt/ml/config/resourceconfig.json"))["current_host"] == "algo-2":
            sys.exit("no room")
        time.sleep(60)
    """
    step = lab.processing("Prep", code)
    step["Arguments"]["ProcessingResources"]["ClusterConfig"]["InstanceCount"] = 3
    report = lab.run(step)
    assert report.statuses == {"Prep": "AlgorithmError: no room, exit code: 1"}


def test_a_manifest_lists_what_is_read_under_the_names_that_it_gives(lab: Lab) -> None:
    for name in ("a.txt", "deep/b.txt", "c.txt"):
        lab.put(f"s3://bucket/data/{name}", name)
    listed = [{"prefix": "s3://bucket/data/"}, "deep/b.txt", "a.txt"]
    code = "from pathlib import Path; print(sorted(str(p) for p in Path({!r}).rglob('*.txt')))"
    prep = lab.processing(
        "Prep",
        code.format("/opt/ml/processing/input/m"),
        inputs={"m": lab.put("s3://bucket/lists/good", json.dumps(listed))},
        CacheConfig={"Enabled": True},
    )
    train = lab.training("Train", code.format("/opt/ml/input/data/m"), channels={"m": "s3://bucket/lists/good"})
    lab.put("s3://bucket/lists/absent", json.dumps([{"prefix": "s3://bucket/data/"}, "d.txt"]))
    absent = lab.processing("Absent", "", inputs={"m": "s3://bucket/lists/absent"}, CacheConfig={"Enabled": True})
    none = lab.processing("None", "", inputs={"m": lab.put("s3://bucket/lists/none", '{"no": "list"}')})
    for source in (
        *(step["Arguments"]["ProcessingInputs"][0]["S3Input"] for step in (prep, absent, none)),
        train["Arguments"]["InputDataConfig"][0]["DataSource"]["S3DataSource"],
    ):
        source["S3DataType"] = "ManifestFile"
    train["Arguments"]["InputDataConfig"][0]["InputMode"] = "FastFile"
    report = lab.run(prep, train)
    found = [[f"{root}/a.txt", f"{root}/deep/b.txt"] for root in ("/opt/ml/processing/input/m", "/opt/ml/input/data/m")]
    assert [report.log(name) for name in ("Prep", "Train")] == [f"{names}\n" for names in found]
    assert lab.run(prep).reused == ["Prep"]
    lab.put("s3://bucket/data/a.txt", "changed")
    assert lab.run(prep).reused == []
    reasons = lab.run(absent, none).statuses
    assert reasons["Absent"].startswith(
        "ClientError: s3://bucket/lists/absent lists s3://bucket/data/d.txt, which does"
    )
    assert reasons["None"].startswith("ClientError: s3://bucket/lists/none is no manifest of S3 objects")

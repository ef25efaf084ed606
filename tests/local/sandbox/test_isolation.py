"""What a job sees and can change: its own /opt/ml, /tmp and HOME, AWS as the local target answers it, nothing else."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.local.lab import Json, Lab, Report, call, s3_input, source
from tests.local.samples import processes_of, wait_until

SCRIPT = """
    import glob, json, os, pwd, signal, socket, subprocess, sys, sysconfig, time
    from ctypes import CDLL
    from pathlib import Path
    from urllib.request import urlopen
    import boto3

    OWN_FOLDERS = ("/opt/ml", "/tmp", os.environ["HOME"], "/dev/shm")

    def python(*words):
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
        return done.stdout + (done.stderr.splitlines() or [""])[-1]

    def overwrite(path):
        open(path, "r+b").write(b"modified")

    def can_kill(pid):
        os.kill(pid, signal.SIGKILL)

    def tried(action, *arguments):
        try:
            return action(*arguments)
        except Exception as problem:
            return f"{type(problem).__name__}: {problem}"

    print(json.dumps([tried(eval, attempt, globals()) for attempt in ATTEMPTS]))
"""
SETTINGS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "GITHUB_TOKEN", "SM_HPS")
SECRETS = {**dict.fromkeys(SETTINGS, "s3cr3t"), "HTTPS_PROXY": "http://me:s3cr3t@proxy:3128"}
# What is evaluated in a job: what it gives, as a value or as a regular expression of a text.
AWS, OWN_TREE, NETWORK = json.loads((Path(__file__).parent / "cases/attempts.json").read_text()).values()
PREFIXES = {
    "root": [],
    "root without the right to mount": ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-all"],
    "nobody": ["unshare", "--user", "--map-user=65534", "--map-group=65534"],
    "no mounts": ["env", "LOCAL_ISOLATION=off"],
}
TOLD = """
    import json, sys
    from pathlib import Path
    data, large, out, config, extra = sys.argv[1:]
    open(f"{large}/big.bin", "r+b").write(b"modified")
    told = json.loads(Path(config).read_text())["ProcessingInputs"][0]["S3Input"]["LocalPath"]
    Path(out, "copy.txt").write_text(Path(data, "a.txt").read_text() + extra)
    Path(told, "a.txt").write_text("changed")
"""
LINK_OUT = "import os; os.rmdir('{0}'); os.symlink('{1}', '{0}')"
PLANT = """
    import local_guest, sys
    for url in (sys.argv[1] + "/" + "a" * 64, "../" * 9 + sys.argv[1].lstrip("/") + "/" + "a" * 64):
        head = {"service": "pip", "operation": "Keep", "method": "POST", "url": url, "headers": {}}
        print(local_guest.ask(head, b""))
"""


def trying(attempts: Any, names: Json | None = None) -> str:
    """A script that prints what comes of each attempt."""
    listed = repr(list(attempts))
    for name, value in (names or {}).items():
        listed = listed.replace(name, str(value))
    return f"ATTEMPTS = {listed}\n{source(SCRIPT)}"


def surprises(said: list[Any], expected: Json) -> Json:
    """The attempts that gave something else."""

    def fits(value: Any, wanted: Any) -> bool:
        both_texts = isinstance(value, str) and isinstance(wanted, str)
        return bool(re.match(wanted, value, re.DOTALL)) if both_texts else value == wanted

    rows = zip(expected.items(), said, strict=True)
    return {attempt: value for (attempt, wanted), value in rows if not fits(value, wanted)}


def with_inputs(lab: Lab, name: str, code: str, **more: Any) -> Json:
    """A step with a small input, which is copied, and a large one, which is linked where there are overlays."""
    inputs = {"data": lab.put("s3://bucket/data/a.txt", "original").rpartition("/")[0]}
    lab.put("s3://bucket/large/big.bin", b"original" + bytes(17 * 2**20))
    step = lab.processing(name, code, inputs=inputs, outputs=["o"], **more)
    step["Arguments"]["ProcessingInputs"].append(s3_input("l", "s3://bucket/large", "/opt/ml/processing/input/large"))
    return step


def inputs_are_unchanged(lab: Lab) -> bool:
    """Whether both inputs are in the local S3 as they were put there."""
    start = lab.path("s3://bucket/large/big.bin").read_bytes()[:8]
    return (lab.get("s3://bucket/data/a.txt"), start) == ("original", b"original")


@pytest.mark.parametrize("way", PREFIXES)
def test_jobs_at_the_same_time_change_and_read_only_what_is_theirs(tmp_path: Path, way: str, can_mount: bool) -> None:
    if way != "no mounts" and not (can_mount and os.geteuid() == 0 and shutil.which("setpriv")):
        pytest.skip("only root gives up a right of root's")
    lab, user = Lab(tmp_path / ("long-" * 30)), tmp_path / "user"  # longer than the address of a socket can be
    (user / ".aws").mkdir(parents=True)
    for file in (".aws/credentials", ".netrc"):
        (user / file).write_text("[default]\naws_access_key_id=s3cr3t\naws_secret_access_key=s3cr3t\n")
    lab.put("s3://bucket/hook/sitecustomize.py", "import os; os.environ['CHAINED'] = __file__\n")
    lab.put("s3://bucket/data/b.txt", "b")
    expected = {**AWS, **({} if way == "no mounts" else OWN_TREE)}
    names = {
        "HOME/": f"{lab.home}/",
        "USER": user,
        "OPT": sorted({"ml", *(path.name for path in Path("/opt").iterdir())}),
    }
    hook = {"PYTHONPATH": str(lab.path("s3://bucket/hook"))}
    steps = [with_inputs(lab, name, trying(expected, names), environment=hook) for name in ("One", "Two")]
    words = [*PREFIXES[way], *lab.command({"Version": "2020-12-01", "Steps": steps}, options=["--parallel", 2])]
    settings = {**os.environ, **SECRETS, "HOME": str(user), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=settings, capture_output=True, text=True, timeout=240, cwd=lab.folder)
    report = Report(lab.home, done.returncode, done.stdout, done.stderr)
    assert report.statuses == dict.fromkeys(["One", "Two"], "Succeeded"), report.log("One")
    expected["os.environ['HOME']"] = f"{lab.home}/jobs/"
    assert [surprises(report.printed(name), expected) for name in ("One", "Two")] == [{}, {}]
    assert inputs_are_unchanged(lab)
    assert not lab.path("s3://bucket/data/b.txt").exists()
    assert len(lab.get("s3://bucket/from/job.txt")) == 100_000
    assert not Path("/opt/ml/mine").exists()
    wait_until(lambda: not processes_of(lab.home))
    left = [file for place in ("home/*", "tmp/*", "ml/.api.sock") for file in lab.home.glob(f"jobs/*/{place}")]
    assert not left


def test_a_functions_clients_are_answered_too(any_lab: Lab) -> None:
    function = any_lab.function(
        """
        import boto3, os, sys
        def handler(event, context):
            boto3.client("s3").put_object(Bucket="bucket", Key="made", Body=event["text"].encode())
            assert "GITHUB_TOKEN" not in os.environ and not [n for n in sys.modules if n.startswith("pipeline")]
            return {"left": context.get_remaining_time_in_millis() > 500_000}
        """
    )
    step = call("Call", {"text": "by a function"}, {"left": "Boolean"})
    assert any_lab.run(step, functions=[function], environment=SECRETS).statuses == {"Call": "Succeeded"}
    assert any_lab.get("s3://bucket/made") == "by a function"


def test_without_a_mount_a_script_that_takes_its_paths_from_what_it_is_told_works(any_lab: Lab) -> None:
    folders = [f"/opt/ml/processing/{name}" for name in ("input/data", "input/large", "output/o")]
    extra = "a=/opt/ml/input:/opt/mlflow /opt/ml-x /opt/ml.d s3://b/opt/ml/x"
    words = [*folders, "/opt/ml/config/processingjobconfig.json", extra]
    processing = with_inputs(any_lab, "Processing", TOLD, arguments=words)
    script = """
        import json, os
        from pathlib import Path
        assert Path.cwd() == Path(os.environ.get("SM_SOURCE_DIR", os.environ["SM_MODEL_DIR"] + "/../code")).resolve()
        text = Path(os.environ["SM_CHANNEL_DATA"], "a.txt").read_text()
        Path(os.environ["SM_MODEL_DIR"], "m.txt").write_text(text)
        assert Path(json.loads(os.environ["SM_TRAINING_ENV"])["channel_input_dirs"]["data"], "a.txt").exists()
        raise SystemExit(Path(os.environ["SM_OUTPUT_FAILURE"]).parent.is_dir() - 1)
    """
    channels = {"data": "s3://bucket/data"}
    toolkit = any_lab.training("Toolkit", script, channels=channels)
    drivers = any_lab.drivers("Drivers", {"t.py": script}, {"entry_script": "t.py"}, channels=channels)
    report = any_lab.run(processing, toolkit, drivers, environment={"LOCAL_ISOLATION": "off"})
    assert report.statuses == dict.fromkeys(["Processing", "Toolkit", "Drivers"], "Succeeded")
    (copied,) = any_lab.path("s3://bucket/out").rglob("copy.txt")
    tree = any_lab.home / "jobs" / report.record("Processing")["Job"] / "ml"
    assert copied.read_text() == "original" + extra.replace("=/opt/ml", f"={tree}")
    assert inputs_are_unchanged(any_lab)
    assert report.stderr.count("jobs are not isolated, since") == 1
    assert report.stderr.index("jobs are not isolated, since") < report.stderr.index("Toolkit")


def test_a_job_under_network_isolation_has_loopback_only_and_no_answers(lab: Lab) -> None:
    processing = lab.processing("Processing", trying(NETWORK))
    processing["Arguments"]["NetworkConfig"] = {"EnableNetworkIsolation": True}
    training = lab.training("Training", trying(NETWORK), more={"EnableNetworkIsolation": True})
    report = lab.run(processing, training, lab.processing("Open", "import boto3; boto3.client('s3').list_buckets()"))
    assert report.statuses == dict.fromkeys(["Processing", "Training", "Open"], "Succeeded")
    assert [surprises(report.printed(name), NETWORK) for name in ("Processing", "Training")] == [{}, {}]
    assert "network" not in report.stderr


def test_a_link_that_a_job_leaves_is_not_followed(lab: Lab, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    for folder in (victim / ("a" * 64), tmp_path / "b"):
        folder.mkdir(parents=True)
    for file in (victim / "secret", tmp_path / "b/secret"):
        file.write_text("TOPSECRET")
    link = f"import os; os.rmdir('/opt/ml/a/b'); os.rmdir('/opt/ml/a'); os.symlink({str(tmp_path)!r}, '/opt/ml/a')"
    checkpoints = {"CheckpointConfig": {"S3Uri": "s3://bucket/kept", "LocalPath": "/opt/ml/a/b"}}
    message = f"import os; os.symlink('{victim}/secret', '/opt/ml/output/message'); os._exit(3)"
    report = lab.run(
        lab.training("Checkpoints", link, more=checkpoints),
        lab.processing("Output", LINK_OUT.format("/opt/ml/processing/output/out", victim), outputs=["out"]),
        lab.processing("Message", message),
        lab.processing("Packages", PLANT, arguments=[str(victim)]),
        lab.training("Model", LINK_OUT.format("/opt/ml/model", victim)),
        options=["--parallel", "5"],
    )
    for name, said in {"Output": "is a link", "Model": "is a link", "Message": "exit code: 3"}.items():
        assert said in report.statuses[name]
    assert report.log("Packages").count("404") == 2
    assert sorted(entry.name for entry in victim.iterdir()) == ["a" * 64, "secret"]
    stored = [file for file in lab.home.rglob("*") if file.is_file() and not file.is_symlink()]
    assert not any(b"TOPSECRET" in file.read_bytes() for file in stored)


def test_a_function_that_writes_over_its_answer_fails_with_a_sentence(lab: Lab) -> None:
    code = "import os\ndef handler(event, context):\n    open('/opt/ml/outcome.json', 'w').write('[]')\n    os._exit(0)"
    report = lab.run(call("Call", {}, {"x": "String"}), functions=[lab.function(code)])
    assert report.code == 1
    assert "InternalServerError" not in report.statuses["Call"]

"""What a job sees and can change: its own /opt/ml, /tmp and HOME, or what it is told where there are no mounts."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pipeline.local.sandbox.namespaces import localized
from tests.local.lab import Json, Lab, call, s3_input
from tests.local.samples import processes_of, wait_until

ATTACK = """
    import ctypes, glob, json, os, pwd, signal, socket, subprocess, sys, sysconfig, time
    from pathlib import Path

    def attempt(action):
        try:
            return str(action())
        except (OSError, subprocess.SubprocessError) as problem:
            return type(problem).__name__

    home, user = sys.argv[1], sys.argv[2]
    undo = f"umount {user}/.aws; mount -o remount,rw,bind /; cat {user}/.aws/credentials"
    for own in ("/opt/ml/mine", "/tmp/mine", f"{os.environ['HOME']}/mine", "/dev/shm/mine"):
        assert not os.path.exists(own)
        Path(own).write_text(os.environ["LOCAL_JOB_NAME"])
    time.sleep(0.5)
    open("/opt/ml/processing/input/large/big.bin", "r+b").write(b"modified")
    libc = ctypes.CDLL(None, use_errno=True)
    print(json.dumps({
        "mine": Path("/opt/ml/mine").read_text() == os.environ["LOCAL_JOB_NAME"],
        "opt": sorted(os.listdir("/opt")),
        "written": [attempt(lambda: Path(path).write_text("")) for path in (
            f"{sysconfig.get_path('purelib')}/owned.py", f"{home}/state.db", f"{home}/s3/bucket/data/a.txt",
            f"{home}/owned", f"{home}/packages/owned", "/etc/owned")],
        "mknod": attempt(lambda: os.mknod("/tmp/disk", 0o60600, os.makedev(254, 0))),
        "disks": [attempt(disk.open) for disk in Path("/dev").iterdir() if disk.is_block_device()],
        "terminal": attempt(lambda: [os.close(fd) for fd in os.openpty()]),
        "read": [attempt(Path(path).read_text) for path in (
            f"{user}/.aws/credentials", f"{user}/.netrc", f"{pwd.getpwuid(os.getuid()).pw_dir}/.aws/credentials")],
        "remount": libc.mount(None, b"/", None, 0x20 | 0x1000, None),
        "umount": libc.umount2(f"{user}/.aws".encode(), 2),
        "unmounted": attempt(lambda: subprocess.run(["unshare", "-rm", "sh", "-c", undo], check=True)),
        "processes": sorted(int(entry) for entry in os.listdir("/proc") if entry.isdecimal())[-1] < 100,
        "environments": [attempt(Path(file).read_text) for file in glob.glob("/proc/[0-9]*/environ")],
    }))
    for pid in range(1, 100):
        if pid != os.getpid():
            attempt(lambda: os.kill(pid, signal.SIGKILL))
"""
TOLD = """
    import json, sys
    from pathlib import Path
    data, large, out, config, extra = sys.argv[1:]
    open(f"{large}/big.bin", "r+b").write(b"modified")
    told = json.loads(Path(config).read_text())["ProcessingInputs"][0]["S3Input"]["LocalPath"]
    Path(out, "copy.txt").write_text(Path(data, "a.txt").read_text() + extra)
    Path(told, "a.txt").write_text("changed")
"""
NETWORK = """
    import json, socket
    import boto3
    from botocore.exceptions import ClientError
    listening = socket.create_server(("127.0.0.1", 0))
    socket.create_connection(listening.getsockname()).close()
    try:
        boto3.client("s3").list_buckets()
    except ClientError as problem:
        said = str(problem)
    try:
        socket.create_connection(("192.0.2.1", 80), timeout=2)
    except OSError as problem:
        unreachable = problem.strerror
    print(json.dumps([said, unreachable]))
"""
AS_NOBODY = """
import asyncio, os, sys
from pathlib import Path
from pipeline.local.sandbox.namespaces import find_mount
from pipeline.local.sandbox.process import Command, JobDirectory, JobProcess
job = JobDirectory(Path(sys.argv[1]), "job")
job.linked = [job.tree / "data"]
job.linked[0].mkdir()
(job.linked[0] / "big").hardlink_to(job.home / "object")
words = ["sh", "-c", "id -u; echo modified > data/big; cat data/big; cat object; umount /opt/ml || echo kept $$"]
print(asyncio.run(JobProcess(job, Command(words, {}, "/opt/ml"), find_mount(job.home)).run(30, print)).cause)
"""
LINK_OUT = "import os; os.rmdir('{0}'); os.symlink('{1}', '{0}')"
PLANT = """
    import os, sys
    sys.path.insert(0, os.environ["PYTHONPATH"].split(":")[0])
    import local_guest
    for url in (sys.argv[1] + "/" + "a" * 64, "../" * 9 + sys.argv[1].lstrip("/") + "/" + "a" * 64):
        head = {"service": "pip", "operation": "Keep", "method": "POST", "url": url, "headers": {}}
        print(local_guest.ask(head, b""))
"""


def with_inputs(lab: Lab, name: str, code: str, arguments: list[str]) -> Json:
    """A step with a small input, which is copied, and a large one, which is linked where there are overlays."""
    inputs = {"data": lab.put("s3://bucket/data/a.txt", "original").rpartition("/")[0]}
    lab.put("s3://bucket/large/big.bin", b"original" + bytes(17 * 2**20))
    step = lab.processing(name, code, inputs=inputs, outputs=["o"], arguments=arguments)
    step["Arguments"]["ProcessingInputs"].append(s3_input("l", "s3://bucket/large", "/opt/ml/processing/input/large"))
    return step


def test_paths_are_rewritten_and_names_that_only_begin_like_them_are_not() -> None:
    text = "/opt/ml /opt/ml/model,a=/opt/ml/input:/opt/mlflow /opt/ml-x /opt/ml.d s3://b/opt/ml/x"
    assert localized(text, Path("/home/me/ml")) == (
        "/home/me/ml /home/me/ml/model,a=/home/me/ml/input:/opt/mlflow /opt/ml-x /opt/ml.d s3://b/opt/ml/x"
    )


@pytest.mark.parametrize("rights", ["root", "user namespace"])
def test_jobs_at_the_same_time_change_and_read_only_what_is_theirs(lab: Lab, tmp_path: Path, rights: str) -> None:
    """Without the right to mount, root does as an ordinary user does: by a user namespace."""
    prefix = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-all"] if rights == "user namespace" else []
    if prefix and (os.geteuid() != 0 or not shutil.which("setpriv")):
        pytest.skip("only root gives up a right of root's")
    user = tmp_path / "user"
    (user / ".aws").mkdir(parents=True)
    (user / ".aws" / "credentials").write_text("secret")
    (user / ".netrc").write_text("secret")
    steps = [with_inputs(lab, name, ATTACK, [str(lab.home), str(user)]) for name in ("One", "Two")]
    before = sorted(Path("/opt").iterdir())
    words = [*prefix, *lab.command({"Version": "2020-12-01", "Steps": steps})]
    settings = {**os.environ, "HOME": str(user), "GITHUB_TOKEN": "ghp_real"}
    done = subprocess.run(words, env=settings, capture_output=True, text=True, timeout=60, cwd=lab.folder)
    assert json.loads(done.stdout)["status"] == "Succeeded", done.stdout + done.stderr
    for log in lab.home.glob("jobs/*/log.txt"):
        said = json.loads(log.read_text().splitlines()[-1])
        assert said["mine"]
        assert said["opt"] == sorted({path.name for path in before} | {"ml"})
        assert said["written"] == ["OSError"] * 6
        assert {said["mknod"], *said["disks"]} == {"PermissionError"}
        assert said["terminal"] == "[None, None]"
        assert set(said["read"]) <= {"FileNotFoundError", "NotADirectoryError", ""}
        assert said["unmounted"] == "CalledProcessError"
        assert (said["remount"], said["umount"]) == (-1, -1)
        assert said["processes"]
        assert "ghp_real" not in str(said["environments"])
    assert lab.get("s3://bucket/data/a.txt") == "original"
    assert lab.path("s3://bucket/large/big.bin").read_bytes()[:8] == b"original"
    assert sorted(Path("/opt").iterdir()) == before
    wait_until(lambda: not processes_of(lab.home))
    assert not any([*folder.iterdir()] for name in ("home", "tmp") for folder in lab.home.glob(f"jobs/*/{name}"))


def test_without_a_mount_a_script_that_takes_its_paths_from_what_it_is_told_works(any_lab: Lab) -> None:
    folders = [f"/opt/ml/processing/{name}" for name in ("input/data", "input/large", "output/o")]
    processing = with_inputs(
        any_lab, "Processing", TOLD, [*folders, "/opt/ml/config/processingjobconfig.json", "/opt/mlflow"]
    )
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
    assert copied.read_text() == "original/opt/mlflow"
    assert any_lab.get("s3://bucket/data/a.txt") == "original"
    assert any_lab.path("s3://bucket/large/big.bin").read_bytes()[:8] == b"original"
    assert report.stderr.count("jobs are not isolated, since") == 1
    assert report.stderr.index("jobs are not isolated, since") < report.stderr.index("Toolkit")


def test_a_job_under_network_isolation_has_loopback_only_and_no_answers(lab: Lab) -> None:
    processing = lab.processing("Processing", NETWORK)
    processing["Arguments"]["NetworkConfig"] = {"EnableNetworkIsolation": True}
    training = lab.training("Training", NETWORK, more={"EnableNetworkIsolation": True})
    report = lab.run(processing, training, lab.processing("Open", "import boto3; boto3.client('s3').list_buckets()"))
    assert report.statuses == dict.fromkeys(["Processing", "Training", "Open"], "Succeeded")
    for name in ("Processing", "Training"):
        said, unreachable = report.printed(name)
        assert "s3:ListBuckets" in said
        assert unreachable == "Network is unreachable"
    assert "network" not in report.stderr


def test_it_is_the_same_for_a_user_without_rights(can_mount: bool) -> None:
    python = shutil.which(f"python3.{sys.version_info.minor}", path="/usr/bin")  # which any user can execute
    if not can_mount or os.geteuid() != 0 or not python:
        pytest.skip("only root becomes another user")
    with tempfile.TemporaryDirectory(prefix="lab-", ignore_cleanup_errors=True) as name:
        home = Path(name, "home")
        home.mkdir()
        (home / "object").write_text("original")
        for path in (Path(name), home, home / "object"):
            os.chown(path, 65534, 65534)
        words, nobody = [python, "-c", AS_NOBODY, str(home)], {"user": 65534, "group": 65534, "extra_groups": []}
        done = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[3], **nobody)
        said = done.stdout.splitlines()
        assert (said[:2], said[-2:]) == (["65534", "modified"], ["kept 2", "exited"]), done
        assert (home / "object").read_text() == "original"


def test_a_link_that_a_job_leaves_is_not_followed(lab: Lab, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    for folder in (victim / ("a" * 64), tmp_path / "b"):
        folder.mkdir(parents=True)
    for file in (victim / "secret", tmp_path / "b/secret"):
        file.write_text("TOPSECRET")
    link = f"import os; os.rmdir('/opt/ml/a/b'); os.rmdir('/opt/ml/a'); os.symlink({str(tmp_path)!r}, '/opt/ml/a')"
    kept = lab.training("Checkpoints", link)
    kept["Arguments"]["CheckpointConfig"] = {"S3Uri": "s3://bucket/kept", "LocalPath": "/opt/ml/a/b"}
    message = f"import os; os.symlink('{victim}/secret', '/opt/ml/output/message'); os._exit(3)"
    report = lab.run(
        kept,
        lab.processing("Output", LINK_OUT.format("/opt/ml/processing/output/out", victim), outputs=["out"]),
        lab.processing("Message", message),
        lab.processing("Packages", PLANT, arguments=[str(victim)]),
        lab.training("Model", LINK_OUT.format("/opt/ml/model", victim)),
        options=["--parallel", "5"],
    )
    assert "is a link" in report.statuses["Output"]
    assert "is a link" in report.statuses["Model"]
    assert "exit code: 3" in report.statuses["Message"]
    assert report.log("Packages").count("404") == 2
    assert sorted(entry.name for entry in victim.iterdir()) == ["a" * 64, "secret"]
    stored = [file for file in lab.home.rglob("*") if file.is_file() and not file.is_symlink()]
    assert not any(b"TOPSECRET" in file.read_bytes() for file in stored)


def test_a_function_that_writes_over_its_answer_fails_with_a_sentence(lab: Lab) -> None:
    handler = """
        import os
        def handler(event, context):
            open("/opt/ml/outcome.json", "w").write("[]")
            os._exit(0)
    """
    report = lab.run(call("Call", {}, {"x": "String"}), functions=[lab.function(handler)])
    assert "InternalServerError" not in report.statuses["Call"]
    assert report.code == 1

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
from tests.local.lab import Lab, s3_input
from tests.local.samples import processes_of, wait_until

OFF = {"LOCAL_ISOLATION": "off"}
TOLD = """
    import argparse, json, os
    from pathlib import Path
    parser = argparse.ArgumentParser()
    parser.add_argument("--data")
    parser.add_argument("--out")
    told, _ = parser.parse_known_args()
    Path(told.out, "copy.txt").write_text(Path(told.data, "a.txt").read_text() + os.environ["EXTRA"])
"""
ATTACK = """
    import ctypes, glob, json, os, pwd, signal, socket, subprocess, sys, sysconfig
    from pathlib import Path

    def attempt(action):
        try:
            return str(action())
        except (OSError, subprocess.SubprocessError) as problem:
            return type(problem).__name__

    home, user = sys.argv[1], sys.argv[2]
    undo = f"umount {user}/.aws; mount -o remount,rw,bind /; cat {user}/.aws/credentials"
    for own in ("/opt/ml/mine", "/tmp/mine", f"{os.environ['HOME']}/mine", "/dev/shm/mine"):
        Path(own).write_text("mine")
    libc = ctypes.CDLL(None, use_errno=True)
    print(json.dumps({
        "site": attempt(lambda: Path(sysconfig.get_path("purelib"), "owned.py").write_text("")),
        "state": attempt(lambda: Path(home, "state.db").open("r+b")),
        "object": attempt(lambda: Path(home, "s3/bucket/data/a.txt").write_text("changed")),
        "project": attempt(lambda: Path(home, "owned").write_text("")),
        "packages": attempt(lambda: Path(home, "packages/owned").write_text("")),
        "mknod": attempt(lambda: os.mknod("/tmp/disk", 0o60600, os.makedev(254, 0))),
        "disks": [attempt(disk.open) for disk in Path("/dev").iterdir() if disk.is_block_device()],
        "terminal": attempt(lambda: [os.close(fd) for fd in os.openpty()]),
        "etc": attempt(lambda: Path("/etc/owned").write_text("")),
        "aws": attempt(lambda: Path(user, ".aws/credentials").read_text()),
        "netrc": attempt(lambda: Path(user, ".netrc").read_text()),
        "pwd": attempt(lambda: Path(pwd.getpwuid(os.getuid()).pw_dir, ".aws/credentials").read_text()),
        "remount": libc.mount(None, b"/", None, 0x20 | 0x1000, None),
        "umount": libc.umount2(f"{user}/.aws".encode(), 2),
        "unmounted": attempt(lambda: subprocess.run(["unshare", "-rm", "sh", "-c", undo], check=True)),
        "processes": sorted(int(entry) for entry in os.listdir("/proc") if entry.isdecimal())[-1] < 100,
        "environments": [attempt(Path(file).read_text) for file in glob.glob("/proc/[0-9]*/environ")],
        "tmp": sorted(os.listdir("/tmp")),
    }))
    for pid in range(1, 100):
        if pid != os.getpid():
            attempt(lambda: os.kill(pid, signal.SIGKILL))
"""


def test_paths_are_rewritten_and_names_that_only_begin_like_them_are_not() -> None:
    text = "/opt/ml /opt/ml/model,a=/opt/ml/input:/opt/mlflow /opt/ml-x /opt/ml.d s3://b/opt/ml/x"
    assert localized(text, Path("/home/me/ml")) == (
        "/home/me/ml /home/me/ml/model,a=/home/me/ml/input:/opt/mlflow /opt/ml-x /opt/ml.d s3://b/opt/ml/x"
    )


@pytest.mark.parametrize("rights", ["root", "user namespace"])
def test_a_job_changes_and_reads_nothing_of_the_users(lab: Lab, tmp_path: Path, rights: str) -> None:
    """Without the right to mount, root does as an ordinary user does: by a user namespace."""
    prefix = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-all"] if rights == "user namespace" else []
    if prefix and (os.geteuid() != 0 or not shutil.which("setpriv")):
        pytest.skip("only root gives up a right of root's")
    user = tmp_path / "user"
    (user / ".aws").mkdir(parents=True)
    (user / ".aws" / "credentials").write_text("secret")
    (user / ".netrc").write_text("secret")
    lab.put("s3://bucket/data/a.txt", "original")
    lab.put("s3://bucket/large/big.bin", b"original" + bytes(17 * 2**20))
    attack = lab.processing("Attack", ATTACK, arguments=[str(lab.home), str(user)])
    change = "open('/opt/ml/processing/input/large/big.bin', 'r+b').write(b'modified')"
    large = lab.processing("Large", change)
    large["Arguments"]["ProcessingInputs"].append(s3_input("l", "s3://bucket/large", "/opt/ml/processing/input/large"))
    words = [*prefix, *lab.command({"Version": "2020-12-01", "Parameters": [], "Steps": [attack, large]})]
    settings = {**os.environ, "HOME": str(user), "GITHUB_TOKEN": "ghp_real"}
    done = subprocess.run(words, env=settings, capture_output=True, text=True, timeout=60, cwd=lab.folder)
    assert json.loads(done.stdout)["status"] == "Succeeded", done.stdout + done.stderr
    (log,) = lab.home.glob("jobs/*Attack*/log.txt")
    said = json.loads(log.read_text().splitlines()[-1])
    for name in ("site", "state", "object", "project", "packages", "etc"):
        assert said[name] == "OSError", name
    assert {said["mknod"], *said["disks"]} == {"PermissionError"}
    assert said["terminal"] == "[None, None]"
    for name in ("aws", "netrc", "pwd", "unmounted"):
        assert said[name] in ("FileNotFoundError", "NotADirectoryError", "", "CalledProcessError"), name
    assert (said["remount"], said["umount"]) == (-1, -1)
    assert said["processes"]
    assert "ghp_real" not in str(said["environments"])
    assert lab.get("s3://bucket/data/a.txt") == "original"
    assert lab.path("s3://bucket/large/big.bin").read_bytes()[:8] == b"original"
    wait_until(lambda: not processes_of(lab.home))
    assert not any([*folder.iterdir()] for name in ("home", "tmp") for folder in lab.home.glob(f"jobs/*/{name}"))


def test_without_a_mount_a_script_that_takes_its_paths_from_what_it_is_told_works(any_lab: Lab) -> None:
    any_lab.put("s3://bucket/data/a.txt", "told ")
    any_lab.put("s3://bucket/large/big.bin", b"original" + bytes(17 * 2**20))
    processing = any_lab.processing(
        "Processing",
        TOLD,
        inputs={"data": "s3://bucket/data"},
        outputs=["o"],
        arguments=["--data", "/opt/ml/processing/input/data", "--out=/opt/ml/processing/output/o"],
        environment={"EXTRA": "/opt/mlflow"},
    )
    processing["Arguments"]["ProcessingOutputConfig"]["Outputs"][0]["S3Output"]["S3Uri"] = "s3://bucket/told"
    listed = any_lab.processing(
        "Listed",
        """
        import json, sys
        from pathlib import Path
        config = json.loads(Path(sys.argv[1]).read_text())
        folder = Path(config["ProcessingInputs"][0]["S3Input"]["LocalPath"])
        (folder / "a.txt").write_text("changed")
        print(folder.name, [p.name for p in folder.iterdir()])
        """,
        inputs={"data": "s3://bucket/data"},
        arguments=["/opt/ml/config/processingjobconfig.json"],
    )
    large = any_lab.processing(
        "Large",
        "import sys; open(sys.argv[1], 'r+b').write(b'modified')",
        arguments=["/opt/ml/processing/input/large/big.bin"],
    )
    large["Arguments"]["ProcessingInputs"].append(s3_input("l", "s3://bucket/large", "/opt/ml/processing/input/large"))
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
    report = any_lab.run(processing, listed, large, toolkit, drivers, environment=OFF)
    assert report.statuses == dict.fromkeys(["Processing", "Listed", "Large", "Toolkit", "Drivers"], "Succeeded")
    assert any_lab.get("s3://bucket/told/copy.txt") == "told /opt/mlflow"
    assert report.log("Listed") == "data ['a.txt']\n"
    assert any_lab.get("s3://bucket/data/a.txt") == "told "
    assert any_lab.path("s3://bucket/large/big.bin").read_bytes()[:8] == b"original"
    assert report.stderr.count("jobs are not isolated, since") == 1
    assert report.stderr.index("jobs are not isolated, since") < report.stderr.index("Toolkit")


def test_jobs_at_the_same_time_see_their_own_tree_and_the_machine_sees_none(lab: Lab) -> None:
    code = """
        import os, time
        from pathlib import Path
        mine = Path("/opt/ml/mine")
        assert not mine.exists()
        mine.write_text(os.environ["LOCAL_JOB_NAME"])
        time.sleep(0.5)
        assert mine.read_text() == os.environ["LOCAL_JOB_NAME"]
    """
    before = sorted(Path("/opt").iterdir())
    steps = [lab.processing(f"Step{number}", code) for number in range(3)]
    report = lab.run(*steps, lab.processing("List", "import os; print(sorted(os.listdir('/opt')))"))
    assert report.statuses == dict.fromkeys(["Step0", "Step1", "Step2", "List"], "Succeeded")
    assert sorted(Path("/opt").iterdir()) == before
    assert report.log("List") == f"{sorted({path.name for path in before} | {'ml'})}\n"


def test_a_job_under_network_isolation_has_loopback_only_and_no_answers(lab: Lab) -> None:
    code = """
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
    processing = lab.processing("Processing", code)
    processing["Arguments"]["NetworkConfig"] = {"EnableNetworkIsolation": True}
    training = lab.training("Training", code, more={"EnableNetworkIsolation": True})
    report = lab.run(processing, training, lab.processing("Open", "import boto3; boto3.client('s3').list_buckets()"))
    assert report.statuses == dict.fromkeys(["Processing", "Training", "Open"], "Succeeded")
    for name in ("Processing", "Training"):
        said, unreachable = report.printed(name)
        assert "s3:ListBuckets" in said
        assert unreachable == "Network is unreachable"
    assert "network" not in report.stderr


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

"""A job's own /opt/ml: mounted for it alone, or, where that is not possible, rewritten in all that it is told."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from pipeline.local.sandbox import process
from pipeline.local.sandbox.namespaces import localized
from pipeline.local.sandbox.process import Command, JobDirectory, JobProcess
from tests.local.lab import ROOT, Lab, s3_input

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


def test_paths_are_rewritten_and_names_that_only_begin_like_them_are_not() -> None:
    text = "/opt/ml /opt/ml/model,a=/opt/ml/input:/opt/mlflow /opt/ml-x /opt/ml.d s3://b/opt/ml/x"
    tree = Path("/home/me/ml")
    assert localized(text, tree) == (
        "/home/me/ml /home/me/ml/model,a=/home/me/ml/input:/opt/mlflow /opt/ml-x /opt/ml.d s3://b/opt/ml/x"
    )


def test_without_a_mount_a_script_that_takes_its_paths_from_what_it_is_told_works(any_lab: Lab) -> None:
    any_lab.put("s3://bucket/data/a.txt", "told ")
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
    report = any_lab.run(processing, listed, toolkit, drivers, environment=OFF)
    assert report.statuses == dict.fromkeys(["Processing", "Listed", "Toolkit", "Drivers"], "Succeeded")
    assert any_lab.get("s3://bucket/told/copy.txt") == "told /opt/mlflow"
    assert report.log("Listed") == "data ['a.txt']\n"
    assert any_lab.get("s3://bucket/data/a.txt") == "told "


def test_without_a_mount_large_inputs_are_copied_too(any_lab: Lab) -> None:
    any_lab.put("s3://bucket/large/big.bin", b"original" + bytes(17 * 2**20))
    code = "import sys; open(sys.argv[1], 'r+b').write(b'modified')"
    step = any_lab.processing("Prep", code, arguments=["/opt/ml/processing/input/large/big.bin"])
    step["Arguments"]["ProcessingInputs"].append(s3_input("l", "s3://bucket/large", "/opt/ml/processing/input/large"))
    assert any_lab.run(step, environment=OFF).statuses == {"Prep": "Succeeded"}
    assert any_lab.path("s3://bucket/large/big.bin").read_bytes()[:8] == b"original"


def test_without_a_mount_the_framework_processors_script_works(any_lab: Lab) -> None:
    case = json.loads((Path(__file__).parent / "cases" / "framework_processor.json").read_text())
    any_lab.put("s3://bucket/source/runproc.sh", case["runproc.sh"])
    any_lab.archive("s3://bucket/source/sourcedir.tar.gz", {"main.py": "import os; print(os.getcwd())"})
    report = any_lab.run_definition(case["definition"], environment=OFF)
    assert report.log("Fw").splitlines()[-1].endswith("/ml/processing/input/code")


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
    report = lab.run(*(lab.processing(f"Step{number}", code) for number in range(3)))
    assert report.statuses == dict.fromkeys(["Step0", "Step1", "Step2"], "Succeeded")
    assert sorted(Path("/opt").iterdir()) == before


def test_what_else_is_in_opt_stays_there_for_a_job(lab: Lab) -> None:
    report = lab.run(lab.processing("List", "import os; print(sorted(os.listdir('/opt')))"))
    names = sorted({path.name for path in Path("/opt").iterdir()} | {"ml"})
    assert report.log("List") == f"{names}\n"


AS_NOBODY = """
import asyncio, os, sys
from pathlib import Path
from pipeline.local.sandbox.namespaces import find_mount, libc
from pipeline.local.sandbox.process import Command, JobProcess
from pipeline.local.jobs.runtime import Runtime
from pipeline.local.sagemaker.api import LocalApi
from pipeline.local.store.state import State
from pipeline.local.store.storage import Storage

home = Path(sys.argv[1])
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
libc().prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, as after an exec: only then are files of /proc/self this user's
state = State(home)
runtime = Runtime(state, Storage(state), find_mount(home), LocalApi(state))
print(runtime.mount is not None and runtime.mount.overlays)
job = runtime.job("job")
runtime.place_input("s3://bucket/large", job.tree / "large", job)
script = "id -u; cd /opt/ml/large; printf modified | dd of=big.bin conv=notrunc status=none; head -c 8 big.bin"
words = ["sh", "-c", script]
ended = asyncio.run(JobProcess(job, Command(words, {}, "/opt/ml"), runtime.mount).run(30, print))
print(ended.code, len(job.linked))
"""


def test_a_daemon_that_hides_is_found_by_the_mounts_that_it_shares_with_its_job(lab: Lab) -> None:
    step = lab.processing(
        "Daemon",
        """
        import os, subprocess, sys, time
        sleeper = "import os, time; open(f'/opt/ml/processing/output/pids/{os.getpid()}', 'w'); time.sleep(60)"
        subprocess.run(["sh", "-c", f'setsid env -i {sys.executable} -c "{sleeper}" & exit 0'])
        while not os.listdir("/opt/ml/processing/output/pids"):
            time.sleep(0.01)
        """,
        outputs=["pids"],
    )
    report = lab.run(step)
    assert report.step("Daemon")["seconds"] < 30
    (pid,) = [path.name for path in lab.path("s3://bucket/out").rglob("*") if path.is_file()]
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_it_is_the_same_for_a_user_without_rights(can_mount: bool) -> None:
    """By user namespaces."""
    if not can_mount:
        pytest.skip("this machine does not let jobs mount an /opt/ml of their own")
    with tempfile.TemporaryDirectory(prefix="lab-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        home = folder / "home"
        big = home / "s3" / "bucket" / "large" / "big.bin"
        big.parent.mkdir(parents=True)
        big.write_bytes(b"original" + bytes(17 * 2**20))
        for path in [home, *home.rglob("*")]:
            os.chown(path, 65534, 65534)
        words = [sys.executable, "-c", AS_NOBODY, str(home)]
        done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False)
        assert done.stdout.splitlines() == ["True", "65534", "modified", "0 1"], done.stderr
        assert big.read_bytes()[:8] == b"original"
        subprocess.run(["rm", "-r", str(home)], user=65534, group=65534, cwd="/", check=False)
        assert not any(home.rglob("*"))


def test_a_script_that_ignores_sigterm_is_killed_after_the_grace_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "TIMEOUT_GRACE_SECONDS", 0.3)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True)"
    lines: list[str] = []
    began = time.monotonic()
    job = JobProcess(
        JobDirectory(tmp_path, "job"), Command([sys.executable, "-c", f"{deaf}; time.sleep(60)"], {}, "/opt/ml"), None
    )
    ended = asyncio.run(job.run(0.7, lines.append))
    assert (ended.code, ended.cause, lines) == (-signal.SIGKILL, "timeout", ["deaf"])
    assert time.monotonic() - began < 30


def test_a_stop_that_comes_before_the_start_is_not_lost(tmp_path: Path) -> None:
    job = JobProcess(JobDirectory(tmp_path, "job"), Command(["sleep", "60"], {}, "/opt/ml"), None)
    job.stop()
    ended = asyncio.run(job.run(60, lambda line: None))
    assert (ended.code, ended.cause) == (-signal.SIGTERM, "stopped")

"""pip in jobs: into a folder of the job's own, paid once, and never into this environment."""

import base64
import importlib.util
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.local.lab import Lab

CASE = json.loads((Path(__file__).parents[1] / "cases" / "framework_processor.json").read_text())
MAIN = """
import json, subprocess, sys
import local_made
tool = subprocess.run(["local-made"], capture_output=True, text=True).stdout.strip()
gone = [subprocess.run(["pip", "uninstall", "-y", name], capture_output=True, text=True)
        for name in ("local-made", "boto3", "no-such-package")]
found = subprocess.run([sys.executable, "-c", "import boto3, local_made"], capture_output=True, text=True).stderr
print(json.dumps([local_made.VERSION, tool, [done.returncode for done in gone], [done.stdout for done in gone], found]))
"""


def wheel(name: str, version: str) -> tuple[str, bytes]:
    """A wheel of one module and one program; its file's name and its bytes."""
    module, stream = name.replace("-", "_"), io.BytesIO()
    info = f"{module}-{version}.dist-info"
    files = {
        f"{module}.py": f"VERSION = {version!r}\ndef main():\n    print('tool', VERSION)\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name} = {module}:main\n",
    }
    with zipfile.ZipFile(stream, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"]))
    return f"{module}-{version}-py3-none-any.whl", stream.getvalue()


def with_wheels(code: str) -> str:
    """A script that first writes the wheels of two versions to ./wheels."""
    made = dict(wheel("local-made", version) for version in ("1.0", "2.0"))
    text = {name: base64.b64encode(content).decode() for name, content in made.items()}
    return (
        "import base64, os, pathlib\nos.makedirs('wheels', exist_ok=True)\n"
        f"for name, content in {text!r}.items():\n"
        f"    pathlib.Path('wheels', name).write_bytes(base64.b64decode(content))\n{code}"
    )


@pytest.mark.parametrize("isolation", ["on", "off"])
def test_a_framework_processors_requirements_go_to_the_job_and_are_paid_once(any_lab: Lab, isolation: str) -> None:
    from sagemaker.core.processing import FrameworkProcessor

    own = vars(FrameworkProcessor).get("_generate_framework_script")
    assert own is not None  # the SDK whose script the case holds
    for file in (Path(importlib.util.find_spec("sagemaker.core").origin or "").parent).rglob("install_requirements.py"):
        any_lab.put("s3://bucket/source/install_requirements.py", file.read_bytes())
    any_lab.put("s3://bucket/source/runproc.sh", CASE["runproc.sh"].replace("set -e\n", "set -e\npython3 wheels.py\n"))
    requirements = "--no-index\n--find-links ./wheels\nboto3>=1.0\nlocal-made==1.0\n"
    files = {"main.py": MAIN, "requirements.txt": requirements}
    any_lab.archive("s3://bucket/source/sourcedir.tar.gz", files)
    runproc = CASE["runproc.sh"].replace("    pip uninstall", "    python3 wheels.py\n    pip uninstall")
    any_lab.put("s3://bucket/source/runproc.sh", runproc)
    any_lab.put("s3://bucket/source/wheels.py", with_wheels(""))
    for again in (False, True):
        report = any_lab.run_definition(
            CASE["definition"], environment={"LOCAL_ISOLATION": isolation}, options=["--no-cache"]
        )
        assert report.statuses == {"Fw": "Succeeded"}
        version, tool, codes, said, found = report.printed("Fw")
        assert (version, tool, codes) == ("1.0", "tool 1.0", [0, 0, 0])
        assert "Successfully uninstalled local-made" in said[0]
        assert "belongs to this environment" in said[1]
        assert "not installed" in said[2]
        assert "No module named 'local_made'" in found
        assert ("what an earlier job installed" in report.log("Fw")) == again
    in_this_environment = subprocess.run([sys.executable, "-c", "import local_made"], capture_output=True, check=False)
    assert in_this_environment.returncode == 1


def test_pip_in_scripts_and_by_module_installs_upgrades_and_lists(any_lab: Lab) -> None:
    code = with_wheels(
        """
import json, pathlib, subprocess, sys, time
def run(*words):
    done = subprocess.run(words, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr
source = ["--no-index", "--find-links", "wheels"]
codes = [run(sys.executable, "-m", "pip", "install", *source, "local-made==1.0")[0]]
import local_made
first = local_made.VERSION
codes.append(run("sh", "-c", "pip3 install --no-index --find-links wheels 'local-made>=2' && pip --version")[0])
codes.append(run(sys.executable, "-m", "pip", "install", *source, "no-such-package")[0])
codes.append(run("pip", "install", "boto3", "numpy")[0])  # satisfied: without network
unguarded = [run(sys.executable, "-I", "-m", "pip", *words)[1]
             for words in (["install", *source, "local-made"], ["uninstall", "-y", "boto3"])]
killed = subprocess.Popen([sys.executable, "-m", "pip", "install", *source, "local-made==1.0"])
while not list(pathlib.Path.home().glob(".installed/tmp*")):
    time.sleep(0.01)
killed.kill()
codes.append(run("pip", "install", *source, "local-made==1.0")[0])
again = run(sys.executable, "-c", "import local_made; print(local_made.VERSION)")[1].strip()
run("pip", "install", *source, "local-made==2.0")
shown = run("pip", "show", "local-made")[1]
second = run(sys.executable, "-c", "import local_made; print(local_made.VERSION)")[1]
refused = ["would change the user's environment" in text for text in unguarded]
print(json.dumps([codes, first, again, second.strip(), "Version: 2.0" in shown, refused]))
"""
    )
    step = any_lab.processing("Pip", "x")
    any_lab.put("s3://bucket/code/Pip/script.py", code)
    report = any_lab.run(step)
    assert report.printed("Pip") == [[0, 0, 1, 0, 0], "1.0", "1.0", "2.0", True, [True, True]]
    assert not list(any_lab.home.glob("packages/tmp*"))


def test_two_jobs_that_require_the_same_install_it_once(any_lab: Lab) -> None:
    code = with_wheels(
        """
import subprocess, sys
subprocess.run([sys.executable, "-m", "pip", "install", "--no-index", "-f", "wheels", "local-made"], check=True)
import local_made
"""
    )
    steps = [any_lab.processing(name, "x") for name in ("One", "Two")]
    for name in ("One", "Two"):
        any_lab.put(f"s3://bucket/code/{name}/script.py", code)
    report = any_lab.run(*steps)
    assert report.statuses == {"One": "Succeeded", "Two": "Succeeded"}
    assert sorted("an earlier job" in report.log(name) for name in ("One", "Two")) == [False, True]

"""pip in jobs: into a folder of the job's own, paid once, and never into this environment."""

import importlib.util
import io
import json
import zipfile
from pathlib import Path

import pytest

from tests.local.lab import SDK, Lab

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
PIP = """
import json, subprocess, sys, time
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
INSTALL = """
import subprocess, sys
subprocess.run([sys.executable, "-m", "pip", "install", "--no-index", "-f", "wheels", "local-made"], check=True)
import local_made
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


WHEELS = dict(wheel("local-made", version) for version in ("1.0", "2.0"))
MAKE_WHEELS = f"""
import os, pathlib
os.makedirs("wheels", exist_ok=True)
for name, content in {WHEELS!r}.items():
    pathlib.Path("wheels", name).write_bytes(content)
"""


@pytest.mark.parametrize("isolation", ["on", "off"])
def test_a_framework_processors_requirements_go_to_the_job_and_are_paid_once(any_lab: Lab, isolation: str) -> None:
    from sagemaker.core.processing import FrameworkProcessor

    assert "_generate_framework_script" in vars(FrameworkProcessor)  # the SDK whose script the case holds
    installer = SDK / "core/utils/install_requirements.py"
    runproc = CASE["runproc.sh"].replace("    pip uninstall", "    python3 wheels.py\n    pip uninstall")
    beside = {"install_requirements.py": installer.read_bytes(), "runproc.sh": runproc, "wheels.py": MAKE_WHEELS}
    for name, content in beside.items():
        any_lab.put(f"s3://bucket/source/{name}", content)
    requirements = "--no-index\n--find-links ./wheels\nboto3>=1.0\nlocal-made==1.0\n"
    any_lab.archive("s3://bucket/source/sourcedir.tar.gz", {"main.py": MAIN, "requirements.txt": requirements})
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
    assert importlib.util.find_spec("local_made") is None  # in this environment


def test_pip_in_scripts_and_by_module_installs_upgrades_and_lists(any_lab: Lab) -> None:
    report = any_lab.run(any_lab.processing("Pip", MAKE_WHEELS + PIP))
    assert report.printed("Pip") == [[0, 0, 1, 0, 0], "1.0", "1.0", "2.0", True, [True, True]]
    assert not list(any_lab.home.glob("packages/tmp*"))


def test_two_jobs_that_require_the_same_install_it_once(any_lab: Lab) -> None:
    names = ["One", "Two"]
    report = any_lab.run(*(any_lab.processing(name, MAKE_WHEELS + INSTALL) for name in names))
    assert report.statuses == dict.fromkeys(names, "Succeeded")
    assert sorted("an earlier job" in report.log(name) for name in names) == [False, True]

"""pip in jobs: into a folder of the job's own, paid once, and never into this environment."""

import copy
import importlib.util
import json
from pathlib import Path

import pytest

from tests.local.lab import SDK, Lab
from tests.local.samples import wheel

CASE = json.loads((Path(__file__).parents[1] / "cases" / "framework_processor.json").read_text())
MAKE_WHEELS = f"""
import os, pathlib
os.makedirs("wheels", exist_ok=True)
for name, content in {dict(wheel("local-made", version) for version in ("1.0", "2.0"))!r}.items():
    pathlib.Path("wheels", name).write_bytes(content)
"""
VERSION = "python3 -c 'import local_made; print(local_made.VERSION)'"
FROM = "--no-index --find-links wheels"
KILLED = (
    f"pip install {FROM} local-made==1.0 & "
    "until test -e ~/.installed/tmp* || ! kill -0 $!; do sleep 0.01; done; kill -9 $!; wait $!"
)
COMMANDS = [  # a command, the exit code that it has, what it prints
    (f"python3 -m pip install {FROM} local-made==1.0", 0, ""),
    (VERSION, 0, "1.0"),
    (f"pip3 install {FROM} 'local-made>=2' && pip --version", 0, "pip "),
    (VERSION, 0, "2.0"),
    (f"python3 -m pip install {FROM} no-such-package", 1, "No matching distribution"),
    ("pip install boto3 numpy", 0, ""),  # satisfied: without network
    (f"python3 -I -m pip install {FROM} local-made", 1, "would change the user's environment"),
    ("python3 -I -m pip uninstall -y boto3", 1, "would change the user's environment"),
    (KILLED, 137, ""),
    (f"pip install {FROM} local-made==1.0", 0, ""),
    (VERSION, 0, "1.0"),
    (f"pip install {FROM} local-made==2.0", 0, ""),
    ("pip show local-made", 0, "Version: 2.0"),
    ("local-made", 0, "tool 2.0"),
    ("pip uninstall -y local-made", 0, "Successfully uninstalled local-made"),
    ("pip uninstall -y boto3", 0, "belongs to this environment"),
    ("pip uninstall -y no-such-package", 0, "not installed"),
    ("python3 -c 'import boto3, local_made'", 1, "No module named 'local_made'"),
]
RUN_COMMANDS = f"""
import json, subprocess
def run(command):
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr
print(json.dumps([run(command) for command, *_ in {COMMANDS!r}]))
"""


def test_pip_in_scripts_and_by_module_installs_upgrades_lists_and_uninstalls(any_lab: Lab) -> None:
    report = any_lab.run(any_lab.processing("Pip", MAKE_WHEELS + RUN_COMMANDS))
    for (command, code, text), (found, output) in zip(COMMANDS, report.printed("Pip"), strict=True):
        assert (found, text in output) == (code, True), (command, output)
    assert importlib.util.find_spec("local_made") is None  # in this environment
    assert not list(any_lab.home.glob("packages/tmp*"))


@pytest.mark.parametrize("isolation", ["on", "off"])
def test_what_two_framework_processors_require_goes_to_their_jobs_and_is_paid_once(
    any_lab: Lab, isolation: str
) -> None:
    from sagemaker.core.processing import FrameworkProcessor

    assert "_generate_framework_script" in vars(FrameworkProcessor)  # the SDK whose script the case holds
    installer = SDK / "core/utils/install_requirements.py"
    runproc = CASE["runproc.sh"].replace("    pip uninstall", "    python3 wheels.py\n    pip uninstall")
    beside = {"install_requirements.py": installer.read_bytes(), "runproc.sh": runproc, "wheels.py": MAKE_WHEELS}
    for name, content in beside.items():
        any_lab.put(f"s3://bucket/source/{name}", content)
    requirements = "--no-index\n--find-links ./wheels\nboto3>=1.0\nlocal-made==1.0\n"
    main = "import local_made\nprint('version', local_made.VERSION)"
    any_lab.archive("s3://bucket/source/sourcedir.tar.gz", {"main.py": main, "requirements.txt": requirements})
    definition = copy.deepcopy(CASE["definition"])
    [step] = definition["Steps"]
    definition["Steps"].append({**step, "Name": "Again"})
    report = any_lab.run_definition(definition, environment={"LOCAL_ISOLATION": isolation}, options=["--no-cache"])
    assert report.statuses == {"Fw": "Succeeded", "Again": "Succeeded"}
    logs = [report.log(name) for name in report.statuses]
    assert ["version 1.0" in log for log in logs] == [True, True]
    assert sorted("what an earlier job installed" in log for log in logs) == [False, True]
    assert importlib.util.find_spec("local_made") is None

"""Every command and program of the pages, run as it stands in a copy of the project that one small run has filled."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
import yaml
from nbclient import NotebookClient

from tests.docs.pages import PAGES, ROOT, Block, blocks, commands
from tests.local.samples import processes_of, wait_until

COPIED = ("run_pipeline.py", "pipeline", "steps", "containers", "docs/first-model.ipynb")
PHOTOS = {"dress": 36, "hat": 36, "shoes": 36}  # drift takes a baseline of 60 images
ELSEWHERE = {"aws.md": "tests/aws/test_stock_cli.py", "extending.md": "tests/test_extending.py"}
NOT_RUN = {  # lines by how they begin; of the program's own, the options are checked
    "make ": "installs, or runs these tests",
    ".venv/bin/python -m pytest": "runs other tests",
    "source ": "the tests have their own environment",
    "export AWS_": "for the lines below it",
    "aws s": "needs the server: tests/studio/stock_cli.sh",
    "python -m pipeline.config.reference": "writes files of the repository, which tests/config compares",
    "python run_pipeline.py weights fetch": "needs a network: tests/pipeline/test_weights_command.py",
    "python run_pipeline.py studio": "serves until Ctrl-C: tests/studio",
    "python run_pipeline.py images": "needs docker and a registry: tests/images, tests/aws",
    "python run_pipeline.py infra": "tests/aws/test_stock_cli.py",
    "python run_pipeline.py run --target aws": "tests/aws/test_stock_cli.py",
    "python run_pipeline.py approve --target aws": "tests/aws/test_stock_cli.py",
    "python run_pipeline.py teardown --target aws": "tests/aws/test_stock_cli.py",
    "python run_pipeline.py drift --target aws": "needs an account's endpoint: tests/aws/test_drift.py",
}
FIRST = "python run_pipeline.py run --data photos"
SHORTENED = {"python run_pipeline.py run --data more --add": " --only PrepareData"}
STATUSES = {"python run_pipeline.py drift": (0, 3)}  # of lines that may end otherwise than with 0
LAST = ("data.md",)  # changes the data set
ORDERED = sorted(PAGES, key=lambda page: page.name in LAST)
TESTED = [page for page in ORDERED if page.name not in ELSEWHERE and blocks(page, "sh", "python")]


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Iterator[Path]:
    """A copy of the project whose settings make a run short, with photos, and all that the pages name."""
    folder = tmp_path_factory.mktemp("docs") / "project"
    (folder / "docs").mkdir(parents=True)
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    (folder / "sample").symlink_to(ROOT / "sample")
    settings = yaml.safe_load((ROOT / "pipeline.yaml").read_text())
    settings["data"] |= {"image_size_px": 64, "augmented_views": 0}
    settings["tuning"] |= {"max_jobs": 1, "max_parallel_jobs": 1}
    settings["tuning"]["ranges"]["epochs"] = {"type": "integer", "min": 24, "max": 26}
    settings["deploy"] |= {"data_capture_percent": 100, "runtime": "torchscript"}
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    for label, count in PHOTOS.items():
        for source, first, last in (("photos", 0, count), ("more", count, count + 2)):
            (folder / source / label).mkdir(parents=True)
            for photo in sorted((ROOT / "sample/photos" / label).iterdir())[first:last]:
                shutil.copy(photo, folder / source / label)
    for name, photo in (("photo.jpg", "hat/40.jpg"), ("other.jpg", "shoes/40.jpg")):
        shutil.copy(ROOT / "sample/photos" / photo, folder / name)
    write_definition(folder)
    yield folder
    run_line(folder, "python run_pipeline.py teardown --yes")
    wait_until(lambda: not processes_of(folder), seconds=10)


def write_definition(folder: Path) -> None:
    """Write somebody else's pipeline, of one Lambda step, training, and request."""
    step = {
        "Name": "Count",
        "Type": "Lambda",
        "FunctionArn": "arn:aws:lambda:us-east-1:000000000000:function:my-function",
        "Arguments": {"epochs": {"Get": "Parameters.Epochs"}},
        "OutputParameters": [{"OutputName": "count", "OutputType": "String"}],
    }
    parameters = [{"Name": "Epochs", "Type": "Integer", "DefaultValue": 1}]
    definition = {"Version": "2020-12-01", "Metadata": {}, "Parameters": parameters, "Steps": [step]}
    (folder / "pipeline.json").write_text(json.dumps(definition))
    (folder / "train.py").write_text("import time\n\ntime.sleep(1)\n")
    rule = {"RuleConfigurationName": "overfit", "RuleParameters": {"rule_to_invoke": "Overfit"}}
    (folder / "request.json").write_text(json.dumps({"DebugRuleConfigurations": [rule]}))
    (folder / "handler.py").write_text("def handler(event, context):\n    return {'count': str(event['epochs'])}\n")


def run_line(folder: Path, line: str) -> "subprocess.CompletedProcess[str]":
    """Run one shell line where a reader would, with `python` that of these tests."""
    foreign = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PYTHONPATH"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{foreign['PATH']}"
    environment = foreign | {"PATH": path, "BROWSER": "true"}
    words, nothing = ["bash", "-c", line], subprocess.DEVNULL
    return subprocess.run(
        words, cwd=folder, env=environment, stdin=nothing, capture_output=True, text=True, timeout=600
    )  # fmt: skip


@pytest.fixture(scope="module")
def filled(project) -> Path:
    """The project after one run on the photos."""
    done = run_line(project, FIRST)
    assert done.returncode == 0, done.stdout + done.stderr
    return project


@pytest.fixture(scope="module")
def run_once(filled) -> Callable[[str], None]:
    """A function that runs a line, unless another page has run it already."""
    done = {FIRST}

    def run(line: str) -> None:
        if line in done:
            return
        done.add(line)
        ended = run_line(filled, with_names(filled, line) + SHORTENED.get(line, ""))
        expected = next((codes for start, codes in STATUSES.items() if line.startswith(start)), (0,))
        assert ended.returncode in expected, f"{line}\n{ended.stdout[-2000:]}{ended.stderr[-2000:]}"

    return run


def with_names(folder: Path, line: str) -> str:
    """Return a line with the endpoint's URL and the names of two executions, where it has words for these."""
    if "URL" in line:
        [endpoint] = json.loads(run_line(folder, "python run_pipeline.py endpoints --json").stdout)
        line = line.replace("URL", endpoint["url"])
    if "OLD NEW" in line:
        shown = json.loads(run_line(folder, "python run_pipeline.py list --json").stdout)
        newest, older = (entry["execution_arn"].rpartition("/")[2] for entry in shown[:2])
        line = line.replace("OLD NEW", f"{older} {newest}")
    return line


@pytest.mark.parametrize("page", TESTED, ids=lambda page: page.name)
def test_the_lines_of_a_page_work_in_their_order(page, filled, run_once):
    for block in blocks(page, "sh", "python"):
        for line in lines_of(block):
            if any(line.startswith(start) for start in NOT_RUN):
                check_options(filled, line)
            else:
                run_once(line)


def lines_of(block: Block) -> list[str]:
    """Return what a shell gets to run: a Python block is one line."""
    if block.language == "python":
        if "from sagemaker" in block.text:
            return []  # tests/local/sdk runs it, on an index of what is sent
        return [f"python - <<'END'\n{block.text}END"]
    return [line.strip() for line in block.text.splitlines() if commands(line)]


def check_options(folder: Path, line: str) -> None:
    """Check that a command that is not run has the options that the line gives it."""
    (words,) = commands(line)
    if words[:2] == ["python", "run_pipeline.py"]:
        shown = run_line(folder, f"python run_pipeline.py {words[2]} --help").stdout
        for word in words[3:]:
            assert not word.startswith("--") or word.partition("=")[0] in shown, line
    if words[0] == "make":
        goals = [word for word in words[1:] if "=" not in word]
        makefile = (ROOT / "Makefile").read_text()
        assert all(f"\n{goal}:" in makefile for goal in goals), line


def test_the_notebook_runs_from_its_first_cell_to_its_last(filled):
    path = filled / "docs/first-model.ipynb"
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.get("outputs") and not cell.get("execution_count") for cell in notebook.cells)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(path.parent)}}).execute()
    assert any("Succeeded" in str(cell.get("outputs")) for cell in notebook.cells)

"""docs/extending.md: each diff applies to the repository as it is, touches few files, and does what the page says."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/extending.md").read_text()
DIFFS = dict(re.findall(r"^## ([^\n]+)\n[^`]*?(?:`[^`]+`[^`]*?)*?```diff\n(.*?)```", PAGE, flags=re.S | re.M))
MOST_FILES = 4
COMPILE = """
import json, sys
from pathlib import Path
from pipeline.aws.cost import instances
from pipeline.compile.compiler import Inputs, compile_pipeline
from pipeline.compile.placement import local_placement
from pipeline.config.config import load
from pipeline.definition.check import check

Path("changed.yaml").write_text(sys.argv[1])
compiled = compile_pipeline(Inputs(load(Path("changed.yaml")), local_placement("f"), "s3://b/d", "s3://b/w", "s3://b/a"))
definition = json.loads(compiled.definition)
billed = [each.step for each in instances(definition)]
found = {"steps": definition["Steps"], "problems": check(definition), "billed": billed}
print(json.dumps({**found, "code": [bundle.entry_point for bundle in compiled.bundles]}))
"""
METRICS = """
import numpy as np
from classifier.evaluation.metrics import classification_metrics

probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]], np.float32)
print(classification_metrics(np.array([0, 1, 1]), probabilities, ["a", "b"])["matthews_correlation"]["value"])
"""


@pytest.fixture
def extended(tmp_path):
    """A function from an extension's title to a copy of the repository that has it."""

    def apply(title: str) -> Path:
        folder = tmp_path / "copy"
        for name in ("pipeline", "steps"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("run_pipeline.py", "pipeline.yaml"):
            shutil.copy(ROOT / name, folder / name)
        alone = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path)}
        subprocess.run(["git", "apply", "-"], input=DIFFS[title], text=True, cwd=folder, env=alone, check=True)
        return folder

    return apply


def run(folder: Path, *words: object, path: str = "") -> str:
    """What a Python process in the copy prints."""
    environment = {**os.environ, "PYTHONPATH": str(folder / path), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_five_extensions_touch_four_files_at_most():
    assert len(DIFFS) == 5
    for title, diff in DIFFS.items():
        assert 1 <= diff.count("diff --git") <= MOST_FILES, title


def test_a_step_is_compiled_sound_billed_and_its_code_uploaded(extended):
    found = json.loads(run(extended("A step"), "-c", COMPILE, "data: {source: sample}"))
    assert "CountImages" in [step["Name"] for step in found["steps"]]
    assert found["problems"] == []
    assert "CountImages" in found["billed"]
    assert "count.py" in found["code"]


def test_a_setting_reaches_the_arguments_of_its_job(extended):
    folder = extended("A setting")
    found = json.loads(run(folder, "-c", COMPILE, "evaluation: {shown_mistakes: 7}"))
    [step] = [step for step in found["steps"] if step["Name"] == "EvaluateModel"]
    words = step["Arguments"]["AppSpecification"]["ContainerArguments"]
    assert words[words.index("--shown-mistakes") + 1] == "7"
    assert "--shown-mistakes" in run(folder, "steps/evaluate.py", "--help", path="steps")


def test_a_command_is_in_the_help(extended):
    assert re.search(
        r"parameters +List what --param may override", run(extended("A command"), "run_pipeline.py", "--help")
    )


def test_a_step_type_runs(extended):
    folder = extended("A step type of the local SageMaker")
    step = {"Name": "Origin", "Type": "Lineage", "Arguments": {"Artifacts": []}}
    (folder / "lineage.json").write_text(json.dumps({"Version": "2020-12-01", "Steps": [step]}))
    words = ["run", "--json", "--definition", "lineage.json", "--home", folder / "home"]
    assert json.loads(run(folder, "run_pipeline.py", *words))["steps"][0]["status"] == "Succeeded"


def test_a_metric_is_in_the_evaluation(extended):
    assert float(run(extended("A metric"), "-c", METRICS, path="steps")) == 1.0

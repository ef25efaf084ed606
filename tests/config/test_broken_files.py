"""Files with several mistakes: all are told at once, also those that the file alone cannot show."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.errors import ConfigError
from pipeline.service.staging import open_project

ROOT = Path(__file__).parents[2]
CASES = yaml.safe_load((Path(__file__).parent / "cases" / "broken_files.yaml").read_text())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    (tmp_path / "labels.csv").write_text("path,labl\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_every_mistake_is_one_sentence_with_place_and_remedy(folder: Path, case: dict[str, Any]) -> None:
    Path("pipeline.yaml").write_text(case["file"])
    with pytest.raises(ConfigError) as caught:
        open_project(Path("pipeline.yaml"))
    found = caught.value.problems
    assert [sentence.split(":")[1] for sentence in found] == [str(line) for line, *_ in case["problems"]], found
    unexplained = list(found)
    for line, *parts in case["problems"]:
        fitting = [each for each in unexplained if each.startswith(f"pipeline.yaml:{line}: ")]
        (sentence,) = [each for each in fitting if all(part in each for part in parts)] or [(line, parts, fitting)]
        assert sentence in unexplained, sentence
        unexplained.remove(sentence)


@pytest.mark.parametrize("command", ["validate", "run"])
def test_commands_refuse_a_broken_file_before_anything_runs(folder: Path, command: str) -> None:
    Path("pipeline.yaml").write_text("data: {source: phots, split_sed: 1}\ntuning: {max_jobs: 0}\n")
    words = [ROOT / "run_pipeline.py", command, "--config", "pipeline.yaml", "--home", "home", "--json"]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=60)
    told = "\n".join(json.loads(done.stdout)["problems"]) if command == "validate" else done.stderr
    assert done.returncode == 2 and "Traceback" not in done.stderr
    for part in ("'phots' does not exist", "data.split_sed is not", "pipeline.yaml:2: tuning.max_jobs must be"):
        assert part in told
    assert not Path("home").exists()

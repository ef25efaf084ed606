"""PrepareData again, on several instances, or after it was killed: always the same bytes, and nothing done twice."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import prepare
from classifier.data.parts import part_files
from classifier.job.failures import PROCESSING_MESSAGE, run
from tests.steps.prepare_job import arguments, write_classes

CACHE = "embedding_cache"
KNOWN = re.compile(r"(\d+) of (\d+) images were embedded before")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classes(tmp_path_factory.mktemp("instances") / "data", 16)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, data: Path, weights_dir: Path) -> Path:
    """What one instance that nobody disturbs leaves."""
    output = tmp_path_factory.mktemp("alone") / "output"
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert call(data, output, weights_dir, monkeypatch) == 0
    return output


def start(data: Path, output: Path, weights: Path, **options: object) -> subprocess.Popen[str]:
    """prepare.py in a process of its own, in parts of 7 images."""
    command = arguments(
        data, output, weights, {"rows-per-part": 7, **{n.replace("_", "-"): o for n, o in options.items()}}
    )
    environment = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", PROCESSING_MESSAGE[0]: str(output) + ".message"}
    script = [sys.executable, prepare.__file__, *command]
    return subprocess.Popen(script, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen[str]) -> int:
    """Wait for the end; the exit code. The output is then `process.output`."""
    process.output, _ = process.communicate(timeout=120)
    return process.returncode


def call(data: Path, output: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, **options: object) -> int:
    """prepare.py within this process."""
    command = arguments(
        data, output, weights, {"rows-per-part": 7, **{n.replace("_", "-"): o for n, o in options.items()}}
    )
    monkeypatch.setattr(sys, "argv", ["prepare.py", *command])
    return run(prepare.main)


def contents(*outputs: Path) -> dict[str, bytes]:
    """Path -> bytes of all that instances left, as their uploads merge in S3; without the cache."""
    files = [(output, path) for output in outputs for path in output.rglob("*") if path.is_file()]
    found = {path.relative_to(output).as_posix(): path.read_bytes() for output, path in files}
    return {name: content for name, content in found.items() if not name.startswith(f"{CACHE}/")}


def resource_config(folder: Path, rank: int, count: int) -> Path:
    hosts = [f"algo-{number + 1}" for number in range(count)]
    file = folder / f"resourceconfig-{rank}.json"
    file.write_text(json.dumps({"current_host": hosts[rank], "hosts": hosts}))
    return file


def listed_images(output: Path) -> list[dict[str, Any]]:
    """images.jsonl"""
    return [json.loads(line) for line in (output / "manifest" / "images.jsonl").read_text().splitlines()]


def known(text: str) -> int:
    """How many images a run did not embed, because it knew them."""
    found = KNOWN.search(text)
    return int(found[1]) if found else 0


@pytest.mark.parametrize("count", [2, 5])
def test_several_instances_leave_the_bytes_of_one(
    tmp_path: Path, data: Path, weights_dir: Path, alone: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    outputs = [tmp_path / f"{rank}" for rank in range(count)]
    for rank, output in enumerate(outputs):
        config = resource_config(tmp_path, rank, count)
        assert call(data, output, weights_dir, monkeypatch, resource_config=config) == 0
    assert contents(*outputs) == contents(alone)
    written = [len(contents(output)) for output in outputs]
    assert min(written) > 0 and sum(written) == len(contents(alone))


def test_parts_hold_the_images_in_the_manifests_order(alone: Path) -> None:
    assert len(part_files(alone / "embeddings", "train")) > 2
    for split in ("train", "validation", "test"):
        listed = [entry["label"] for entry in listed_images(alone) if entry["split"] == split]
        rows = [len(np.load(file)) for file in part_files(alone / "embeddings", split)]
        means = [len(np.load(file)) for file in part_files(alone / "embeddings", split, "_input_means")]
        assert sum(rows) == len(listed) and means == rows and set(rows[:-1]) <= {7}
        assert np.load(alone / "embeddings" / f"{split}_labels.npy").tolist() == listed


def test_neither_names_nor_order_of_files_matter_to_an_images_split(
    tmp_path: Path, data: Path, weights_dir: Path, alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [path for path in data.rglob("*") if path.is_file()]
    for number, path in enumerate(sorted(files, key=lambda path: path.stat().st_size)):
        (tmp_path / "data" / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "data" / path.parent.name / f"{number}-renamed{path.suffix}")
    assert call(tmp_path / "data", tmp_path / "output", weights_dir, monkeypatch) == 0

    def splits(output: Path) -> dict[str, str]:
        return {entry["sha256"]: entry["split"] for entry in listed_images(output)}

    assert splits(tmp_path / "output") == splits(alone)


def test_images_that_are_added_are_the_only_ones_embedded(
    tmp_path: Path,
    data: Path,
    weights_dir: Path,
    alone: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(data, tmp_path / "data")
    write_classes(tmp_path / "data", 2, first=100)
    assert call(tmp_path / "data", tmp_path / "fresh", weights_dir, monkeypatch) == 0
    assert known(capsys.readouterr().out) == 0
    assert call(tmp_path / "data", tmp_path / "again", weights_dir, monkeypatch, embedding_cache=alone / CACHE) == 0
    assert known(capsys.readouterr().out) == 48
    assert contents(tmp_path / "again") == contents(tmp_path / "fresh")
    assert sum(len(np.load(file)) for file in (tmp_path / "again" / CACHE).rglob("*.npy")) == 6


@pytest.mark.parametrize("changed", [{"split_seed": 1}, {"image_size": 48}, {"horizontal_flip": "false"}])
def test_what_was_embedded_otherwise_is_embedded_again(
    tmp_path: Path,
    data: Path,
    weights_dir: Path,
    alone: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changed: dict[str, object],
) -> None:
    given = {"embedding_cache": alone / CACHE, **changed}
    assert call(data, tmp_path / "output", weights_dir, monkeypatch, **given) == 0
    assert known(capsys.readouterr().out) == 0


def test_a_run_that_is_killed_at_any_moment_loses_nothing(
    tmp_path: Path,
    weights_dir: Path,
    data: Path,
    alone: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cache = tmp_path / "cache"
    for number, prepared in ((signal.SIGKILL, 0), (signal.SIGKILL, 5), (signal.SIGTERM, 20)):
        output = tmp_path / f"{number.name}-{prepared}"
        process = start(data, output, weights_dir, embedding_cache=cache)
        wait_for_prepared(process, output, prepared)
        process.send_signal(number)
        assert finish(process) == {signal.SIGKILL: -number, signal.SIGTERM: 128 + number}[number], process.output
        assert not (output / "manifest" / "manifest.json").exists()
        shutil.copytree(output / CACHE, cache, dirs_exist_ok=True)  # as a Continuous output is uploaded
    assert call(data, tmp_path / "last", weights_dir, monkeypatch, embedding_cache=cache) == 0
    assert 0 < known(capsys.readouterr().out) < 48
    assert contents(tmp_path / "last") == contents(alone)


def wait_for_prepared(process: subprocess.Popen[str], output: Path, images: int) -> None:
    """Until so many prepared images are in finished shards and another shard is begun, or the process has ended."""
    while process.poll() is None and (
        7 * sum(1 for _ in output.glob("*/*.index")) < images or not any(output.glob("*/.*.tar"))
    ):
        time.sleep(0.005)

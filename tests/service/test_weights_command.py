"""`weights`: a hub on the loopback has the weights; afterwards they are used without it."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save

from pipeline.config.backbones import PUBLISHED

REPOSITORY = Path(__file__).parents[2]
NAME = "test_resnet.r160_in1k"  # timm's own, for tests


class Hub(ThreadingHTTPServer):
    """Answers for one file of one repository, as huggingface.co does; what it sends may be damaged."""

    content, damaged = b"", False

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    """HEAD tells of the file, GET sends it."""

    server: Hub

    def do_HEAD(self) -> None:
        known = self.path.partition("?")[0] == f"/timm/{NAME}/resolve/main/model.safetensors"
        self.send_response(200 if known else 404)
        self.send_header("Content-Length", str(len(self.server.content) if known else 0))
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("X-Linked-Etag", f'"{hashlib.sha256(self.server.content).hexdigest()}"')
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        content = self.server.content
        self.wfile.write(content[:-1] + bytes([content[-1] ^ 1]) if self.server.damaged else content)

    def log_message(self, *words: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    torch.manual_seed(0)
    with Hub(("127.0.0.1", 0), Answer) as server:
        server.content = save(timm.create_model("test_resnet").state_dict())
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def command(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """run_pipeline.py with caches and a home in the folder."""
    places = {"HF_HOME": str(folder / "hub"), "XDG_CACHE_HOME": str(folder / "cache"), "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run(
        [sys.executable, REPOSITORY / "run_pipeline.py", *words, "--home", folder / "home"],
        capture_output=True, text=True, env={**os.environ, **places, **variables}, cwd=folder, timeout=120,
    )  # fmt: skip


def test_what_was_fetched_is_checked_stored_and_used_without_a_network(tmp_path: Path, hub: Hub) -> None:
    hub.damaged = True
    damaged = command(tmp_path, "weights", "fetch", NAME, HF_ENDPOINT=hub.address)
    expected = hashlib.sha256(hub.content).hexdigest()
    assert (damaged.returncode, damaged.stderr) == (
        2,
        f"The weights in timm/{NAME} arrived damaged: their sha256 is not {expected}. Fetch them again.\n",
    )
    assert not (tmp_path / "home").exists()
    hub.damaged = False
    fetched = command(tmp_path, "weights", "fetch", NAME, "--json", HF_ENDPOINT=hub.address)
    assert fetched.stderr == ""
    answer = json.loads(fetched.stdout)
    stored = tmp_path / "home/s3" / answer["uri"].removeprefix("s3://")
    assert hashlib.sha256((stored / "weights.pth").read_bytes()).hexdigest() == answer["sha256"]
    described = json.loads((stored / "weights.json").read_text())
    assert (described["backbone"], described["sha256"]) == (NAME, answer["sha256"])
    (tmp_path / "pipeline.yaml").write_text(f"model: {{backbone: {NAME}, weights: timm}}\n")
    words = ("definition", "--config", "pipeline.yaml")
    offline = command(tmp_path, *words, HF_HUB_OFFLINE="1")
    assert (offline.returncode, answer["uri"] in offline.stdout) == (0, True), offline.stderr


def test_backbones_are_listed_with_what_is_known_of_them(tmp_path: Path) -> None:
    rows = json.loads(command(tmp_path, "weights", "list", "--json").stdout)
    assert {row["backbone"]: row["here"] for row in rows} == {
        name: "yes" if name.startswith("tf_efficientnet_lite") else "no" for name in PUBLISHED
    }
    assert [row["top1_percent"] for row in rows[:3]] == [74.8, 76.7, 77.5]
    bare = command(tmp_path, "weights", "fetch")
    assert (bare.returncode, bare.stderr.startswith("weights: expected list, or fetch NAME, such as: ")) == (2, True)


def test_every_listed_backbone_is_one_that_timm_has_weights_for() -> None:
    for name, published in PUBLISHED.items():
        known = timm.get_pretrained_cfg(name)
        assert known.has_weights and known.input_size[-1] == published.image_size_px, name
        assert known.license.casefold() == published.licence.casefold(), name

"""The README and docs/aws.md line by line, as processes: our command line and the stock AWS CLI.

An account is played by moto's server. What it does not do (run the steps, build images) is done here by hand.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer

from pipeline.aws import infra, stack
from tests.docs.pages import blocks

ROOT = Path(__file__).parents[2]
NAME = "image-classification"
COPIED = ("run_pipeline.py", "pipeline.yaml", "pipeline", "steps", "containers", "sample")
ENGINE = ("images build", "images push")  # what needs docker, podman or buildah; tests/images builds them
Shell = Callable[[str], str]


@pytest.fixture
def shell(client: Any, tmp_path: Path) -> Iterator[Shell]:
    """A function that runs a line where a reader would, on the account of this process; what it prints."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    variables = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        **{"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"},
    }
    told: dict[str, Any] = {"input": "yes\n", "capture_output": True, "text": True, "timeout": 120}

    def run(line: str) -> str:
        said = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=variables, check=False, **told)
        assert said.returncode == 0, f"{line}\n{said.stdout}{said.stderr}"
        return str(said.stdout)

    yield run
    server.stop()


def lines(page: str) -> list[str]:
    """Return a page's commands on AWS, and others of the page on AWS."""
    found = [line for block in blocks(ROOT / page, "sh") for line in block.text.splitlines()]
    return [line for line in found if "aws" in line or page == "docs/aws.md"]


def words(line: str) -> tuple[str, ...]:
    """Return a line's program and command."""
    return tuple(shlex.split(line, comments=True)[:4])


def stock(page: str) -> list[str]:
    return [line for line in lines(page) if line.startswith("aws ")]


def test_the_commands_of_the_page_on_aws_in_their_order(client, shell, push_images, register):
    page = "docs/aws.md"
    for line in lines(page):
        if "images push" in line:
            push_images()
        elif "models" in line:
            register(stack.outputs(client, NAME)["BucketName"], "PendingManualApproval")
        if line not in stock(page) and not any(name in line for name in ENGINE):
            shell(line)
    assert "teardown" in lines(page)[-1]
    assert {words(line) for line in lines("README.md")} <= {words(line) for line in lines(page)}
    assert client("cloudformation").describe_stacks()["Stacks"] == []
    assert client("sagemaker").list_pipelines()["PipelineSummaries"] == []
    assert client("sagemaker").list_model_package_groups()["ModelPackageGroupSummaryList"] == []


def test_the_stock_cli_makes_both_stacks_and_only_the_code_is_left_to_infra(client, config, shell):
    for line in stock("docs/aws.md"):
        shell(line)
    assert "image-classification-approval" not in shell("aws events list-rules")  # it calls the function
    assert stack.outputs(client, f"{NAME}-app")["ScheduleName"] == f"{NAME}-retrain"
    missing = ["the code of the deploy function", "the code of the inputs function"]
    assert infra.stack_differences(client, config) == missing

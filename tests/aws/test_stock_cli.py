"""The templates by the stock AWS CLI, as the page on AWS has it: their defaults are pipeline.yaml's."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer

from pipeline.aws import infra, stack
from pipeline.aws.stack_parameters import APP, BASE

NAME = "image-classification"


@pytest.fixture
def aws(client: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that runs `aws` on the account of this process; it returns what that prints."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        **os.environ, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_PAGER": "",
    }  # fmt: skip

    def run(*words: str) -> str:
        command = [sys.executable, str(Path(sys.executable).with_name("aws")), *words]
        found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
        assert found.returncode == 0, found.stderr
        return found.stdout

    yield run
    server.stop()


def test_both_templates_are_deployed_and_only_the_functions_are_left_to_infra(client, config, aws):
    deploy = ["cloudformation", "deploy", "--capabilities", "CAPABILITY_IAM", "--tags", f"pipeline-stack={NAME}"]
    aws(*deploy, "--stack-name", NAME, "--template-file", str(BASE))
    query = "Stacks[0].Outputs[].[join(`=`, [OutputKey, OutputValue])]"
    given = aws("cloudformation", "describe-stacks", "--stack-name", NAME, "--query", query, "--output", "text").split()
    aws(*deploy, "--stack-name", f"{NAME}-app", "--template-file", str(APP), "--parameter-overrides", *given)
    assert json.loads(aws("events", "list-rules"))["Rules"]
    assert stack.outputs(client, f"{NAME}-app")["ScheduleName"] == f"{NAME}-retrain"
    assert infra.stack_differences(client, config) == [
        "the code of the deploy function", "the code of the inputs function",
    ]  # fmt: skip

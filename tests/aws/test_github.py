"""docs/github: what the roles of the example may do is what its commands do, and no more than that on the pipeline."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from cfnlint.decode import decode

from pipeline.cli.commands import COMMANDS

FOLDER = Path(__file__).parents[2] / "docs/github"
ACTIONS = {  # where an operation's action has another name
    "s3:HeadObject": "s3:GetObject",
    "s3:ListObjectsV2": "s3:ListBucket",
    "s3:CreateMultipartUpload": "s3:PutObject",
    "s3:UploadPart": "s3:PutObject",
    "s3:CompleteMultipartUpload": "s3:PutObject",
    "service-quotas:ListServiceQuotas": "servicequotas:ListServiceQuotas",
    "service-quotas:ListAWSDefaultServiceQuotas": "servicequotas:ListAWSDefaultServiceQuotas",
}


NOT_SEEN = {  # an update's; what creating with a role and an interrupted upload takes; tags of what is created
    "iam:PassRole", "s3:AbortMultipartUpload", "sagemaker:AddTags", "sagemaker:UpdatePipeline",
}  # fmt: skip


def allowed(*policies: str) -> set[str]:
    """The actions of policies in roles.yaml."""
    resources: Any = decode(str(FOLDER / "roles.yaml"))[0]["Resources"]
    found: set[str] = set()
    for name in policies:
        for statement in resources[name]["Properties"]["PolicyDocument"]["Statement"]:
            actions = statement["Action"]
            found |= set([actions] if isinstance(actions, str) else actions)
    return found


@pytest.fixture
def asked(client: Any, made: Any, push_images: Any, monkeypatch: Any) -> set[str]:
    """The actions that commands of this process take from now on, in an account that is ready for them."""
    push_images()
    monkeypatch.setattr("pipeline.service.aws_target.aws_client", lambda region: client)
    taken: set[str] = set()

    def note(model: Any, **_: Any) -> None:
        action = f"{model.service_model.service_name}:{model.name}"
        taken.add(ACTIONS.get(action, action))

    for service in ("s3", "sagemaker", "ecr", "iam", "cloudformation", "service-quotas", "lambda", "scheduler", "logs"):
        client(service).meta.events.register("before-call", note, unique_id="github")
    return taken


def test_the_roles_may_do_what_their_commands_do_and_no_more(cli, asked):
    reading, writing = allowed("ReadPolicy"), allowed("WritePolicy")
    assert cli("validate").status == 0
    assert asked == reading
    assert cli("upsert").status == 0
    assert asked | NOT_SEEN == reading | writing


def test_the_workflow_runs_commands_that_there_are():
    jobs = yaml.safe_load((FOLDER / "workflow.yaml").read_text())["jobs"]
    lines = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    named = {found[1] for line in lines if (found := re.search(r"run_pipeline\.py (\w+)", line))}
    assert named == {"validate", "upsert"} <= COMMANDS.keys()

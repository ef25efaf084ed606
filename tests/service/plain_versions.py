"""Versions of the project's group, served by a server of the standard library."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.local.sagemaker.session import local_session
from pipeline.local.store.state import State
from pipeline.local.store.storage import Storage
from tests.local.samples import model_archive

GROUP = ENDPOINT = "image-classification"
ROLE = "arn:aws:iam::000000000000:role/x"


def registered(home: Path, *statuses: str, files: Mapping[str, str] | None = None, **environment: str) -> list[str]:
    """Make versions with these statuses; their ARNs.

    Args:
        files: That go into each model, over those of `model_archive`.
    """
    state = State(home)
    arns = []
    for number, status in enumerate(statuses, start=1):
        uri = f"s3://local/models/{number}/model.tar.gz"
        Storage(state).write(uri, model_archive(f"model {number}", **(files or {})))
        main = container(uri, **environment)
        answer = (
            local_session(state)
            .client("sagemaker")
            .create_model_package(
                ModelPackageGroupName=GROUP,
                InferenceSpecification={"Containers": [main], "SupportedContentTypes": ["image/png"]},
                ModelApprovalStatus=status,
            )
        )
        arns.append(str(answer["ModelPackageArn"]))
    return arns


def container(uri: str, **environment: str) -> dict[str, Any]:
    """The container of a model."""
    variables = {"SAGEMAKER_PROGRAM": "serve.py", **environment}
    return {"Image": "image", "ModelDataUrl": uri, "Environment": variables}

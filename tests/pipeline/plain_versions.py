"""Versions of the project's group, served by a server of the standard library."""

from pathlib import Path

from pipeline.local.direct import DirectClient
from pipeline.local.state import State
from pipeline.local.storage import Storage
from tests.local.samples import model_archive

GROUP = ENDPOINT = "image-classification"


def registered(home: Path, *statuses: str, **environment: str) -> list[str]:
    """Make versions with these statuses; their ARNs."""
    state = State(home)
    arns = []
    for number, status in enumerate(statuses, start=1):
        uri = f"s3://local/models/{number}/model.tar.gz"
        Storage(state).write(uri, model_archive(f"model {number}"))
        container = {
            "Image": "image",
            "ModelDataUrl": uri,
            "Environment": {"SAGEMAKER_PROGRAM": "serve.py", **environment},
        }
        answer = DirectClient(state, "sagemaker").create_model_package(
            ModelPackageGroupName=GROUP,
            InferenceSpecification={"Containers": [container], "SupportedContentTypes": ["image/png"]},
            ModelApprovalStatus=status,
        )
        arns.append(str(answer["ModelPackageArn"]))
    return arns

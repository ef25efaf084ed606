"""The champion: a copy of the model that the endpoint is asked to serve, where a retrain finds it.

`<champion_uri>/model.tar.gz` is that model's archive and `<champion_uri>/champion.json` says which version it is. A
pipeline's definition is static, so EvaluateModel cannot be told the version in service; it reads this fixed prefix.

champion.json goes first and comes back last, so whoever finds it beside an archive finds the right one. It keeps the
archive's ETag; where two calls crossed, that does not fit, and the next call copies again.
"""

import json

from botocore.exceptions import BotoCoreError, ClientError

from classifier.deployment.hosting import Hosting
from classifier.deployment.services import DeployError, ModelVersion, client, explained, found


def keep_champion(hosting: Hosting, version: ModelVersion) -> str:
    """Make a version the champion, or leave none if it is not approved; the sentence that says why that failed."""
    if not hosting.champion_uri:
        return ""
    folder = hosting.champion_uri.rstrip("/")
    description, archive = _place(f"{folder}/champion.json"), _place(f"{folder}/model.tar.gz")
    try:
        if version.approval == "Approved":
            undone = f"{version} was not kept"
            _keep(version, description, archive)
        else:
            undone = "what is there was not removed"
            client("s3").delete_object(**description)
            client("s3").delete_object(**archive)
    except (ClientError, BotoCoreError, DeployError) as error:
        return (
            f"{hosting.champion_uri}, which the next training is compared with, is not up to date: {undone} "
            f"({explained(error).rstrip('.')}). The next event of the registry or the endpoint tries again."
        )
    return ""


def _keep(version: ModelVersion, description: dict[str, str], archive: dict[str, str]) -> None:
    """Copy the archive by S3's own CopyObject, which takes up to 5 GB, unless it is there already."""
    s3 = client("s3")
    url = str((version.content.get("Containers") or [{}])[0].get("ModelDataUrl", ""))
    if not url.startswith("s3://"):
        raise DeployError(f"{version} has no model archive on S3")
    wanted = {"model_package_arn": version.arn, "model_data_url": url}
    there, known = found(s3.head_object, **archive), found(s3.get_object, **description)
    if there and known and known["Body"].read() == _json({**wanted, "etag": there["ETag"]}):
        return
    s3.delete_object(**description)
    # To copy an object's tags takes permissions of its own.
    copied = s3.copy_object(**archive, CopySource=_place(url), TaggingDirective="REPLACE")
    s3.put_object(**description, Body=_json({**wanted, "etag": copied["CopyObjectResult"]["ETag"]}))


def _json(content: dict[str, str]) -> bytes:
    return json.dumps(content, indent=2).encode()


def _place(uri: str) -> dict[str, str]:
    """An S3 URI as S3's requests name it."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return {"Bucket": bucket, "Key": key}

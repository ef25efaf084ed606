"""The champion: a copy of the model that the endpoint is asked to serve, where a retrain finds it.

`<champion_uri>/model.tar.gz` is that model's archive and `<champion_uri>/champion.json` says which version it is. A
pipeline's definition is static, so EvaluateModel cannot be told the version in service; it reads this fixed prefix.

The order of the calls keeps it true at every moment: champion.json goes first and comes back last, so whoever finds it
beside an archive finds the right one, and an archive without it is of a version that is not known. champion.json keeps
the archive's ETag; where two calls crossed, it does not fit, and the next call copies again.

The deployment does not depend on any of this. What could not be kept is said in the outcome, and every later event of
the registry or of the endpoint tries again.
"""

import json
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from classifier.deployment.hosting import Hosting
from classifier.deployment.model_versions import ModelVersion
from classifier.deployment.services import DeployError, client, explained, found

MODEL_NAME = "model.tar.gz"
DESCRIPTION_NAME = "champion.json"


def keep_champion(hosting: Hosting, version: ModelVersion) -> str:
    """Make a version the champion unless it is; empty, or the sentence that says why it could not be done.

    The copy is made by S3 itself, in one CopyObject, which takes archives of up to 5 GB.
    """
    return _attempt(hosting, version) if hosting.champion_uri else ""


def remove_champion(hosting: Hosting) -> str:
    """Leave nothing to be compared with, as no version is approved; empty, or the sentence that says why not."""
    return _attempt(hosting, None) if hosting.champion_uri else ""


def _attempt(hosting: Hosting, version: ModelVersion | None) -> str:
    try:
        if version is None:
            _remove(hosting)
        else:
            _keep(hosting, version)
    except (ClientError, BotoCoreError, DeployError) as error:
        sentence = explained(error) if isinstance(error, ClientError) else None
        said = str(sentence or error).rstrip(".")
        what = f"{version} was not kept" if version else "what is there was not removed"
        return (
            f"{hosting.champion_uri}, which the next training is compared with, is not up to date: {what} ({said}). "
            "The next event of the registry or the endpoint tries again."
        )
    return ""


def _keep(hosting: Hosting, version: ModelVersion) -> None:
    description = {"model_package_arn": version.arn, "model_data_url": _archive_url(version)}
    if _is_kept(hosting, description):
        return
    _delete(_stored(hosting, DESCRIPTION_NAME))
    copied = client("s3").copy_object(
        **_stored(hosting, MODEL_NAME),
        CopySource=_place(description["model_data_url"]),
        TaggingDirective="REPLACE",  # to copy an object's tags takes permissions of its own
    )
    content = json.dumps({**description, "etag": copied["CopyObjectResult"]["ETag"]}, indent=2)
    client("s3").put_object(**_stored(hosting, DESCRIPTION_NAME), Body=content.encode())


def _is_kept(hosting: Hosting, description: dict[str, str]) -> bool:
    """Whether champion.json says so, and the archive beside it is the one that it was written for."""
    kept = _description(hosting)
    if any(kept.get(name) != value for name, value in description.items()):
        return False
    archive = found(client("s3").head_object, **_stored(hosting, MODEL_NAME))
    return archive is not None and archive["ETag"] == kept.get("etag")


def _description(hosting: Hosting) -> dict[str, Any]:
    answer = found(client("s3").get_object, **_stored(hosting, DESCRIPTION_NAME))
    try:
        content = json.loads(answer["Body"].read()) if answer else {}
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _remove(hosting: Hosting) -> None:
    for name in (DESCRIPTION_NAME, MODEL_NAME):
        _delete(_stored(hosting, name))


def _delete(place: dict[str, str]) -> None:
    """A versioned bucket would keep a marker for each call that has nothing to delete."""
    if found(client("s3").head_object, **place) is not None:
        client("s3").delete_object(**place)


def _archive_url(version: ModelVersion) -> str:
    containers = version.content.get("Containers") or [{}]
    url = str(containers[0].get("ModelDataUrl", ""))
    if not url.startswith("s3://"):
        raise DeployError(f"{version} has no model archive on S3")
    return url


def _stored(hosting: Hosting, name: str) -> dict[str, str]:
    """Where one of the two objects lies, as S3's requests name it."""
    return _place(f"{hosting.champion_uri.rstrip('/')}/{name}")


def _place(uri: str) -> dict[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return {"Bucket": bucket, "Key": key}

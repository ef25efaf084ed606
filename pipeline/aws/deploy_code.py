"""The deploy function's code as a .zip whose name and bytes depend on nothing but the modules in it."""

import io
import zipfile
from typing import Any

from botocore.exceptions import ClientError

from pipeline.compile.bundle import Bundle, deploy_bundle

FIRST_DAY_OF_ZIP = (1980, 1, 1, 0, 0, 0)
REGULAR_FILE = 0o100644


def key(pipeline_name: str) -> str:
    """Where the code lies in the bucket."""
    return f"{deploy_bundle().key(pipeline_name)}/function.zip"


def archive(bundle: Bundle) -> bytes:
    """The modules as a .zip, in the order of their names."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in sorted(bundle.files):
            member = zipfile.ZipInfo(name, FIRST_DAY_OF_ZIP)
            member.external_attr = REGULAR_FILE << 16
            member.compress_type = zipfile.ZIP_DEFLATED
            packed.writestr(member, bundle.files[name])
    return buffer.getvalue()


def upload(s3: Any, bucket: str, pipeline_name: str) -> bool:
    """Store the code unless it is there already; whether it was stored."""
    name = key(pipeline_name)
    try:
        s3.head_object(Bucket=bucket, Key=name)
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("404", "NoSuchKey", "NotFound"):
            raise
        s3.put_object(Bucket=bucket, Key=name, Body=archive(deploy_bundle()))
        return True
    return False

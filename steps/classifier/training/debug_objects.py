"""The debugger's files as objects of their own: output.tar.gz holds them too, with all tensors, and is large."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from classifier.job.failures import cause, say

FOLDERS = ("rules", "report", "profile", "panels")  # of a run's folder, in the order of what is looked at first
HISTORY = "history.json"
LARGEST_BYTES, MOST_FILES = 64 << 20, 500  # in all; the rest is in output.tar.gz only
SECONDS = 5  # for a connection or an answer, so that a job without a way to S3 ends soon


@contextmanager
def uploaded(output_dir: Path, s3_output_path: str) -> Iterator[None]:
    """Upload the files to `<S3OutputPath>/<job>/output/debugger/` at the end of the block, also if it raises.

    Without a path nothing is; what cannot be uploaded is said in one line, and is in output.tar.gz.
    """
    try:
        yield
    finally:
        if s3_output_path:
            job = os.environ.get("TRAINING_JOB_NAME", "training")
            try:
                upload(output_dir, f"{s3_output_path.rstrip('/')}/{job}/output/debugger")
            except Exception as error:  # noqa: BLE001  of boto3, whatever it is, is no reason for a training to fail
                say(f"The debugger's files are in output.tar.gz only, since they could not be uploaded: {cause(error)}")


def upload(output_dir: Path, uri: str) -> None:
    """Upload a run's files but for its tensors."""
    import boto3  # which takes half a second, here where nobody waits for it
    from botocore.config import Config

    config = Config(connect_timeout=SECONDS, read_timeout=4 * SECONDS, retries={"total_max_attempts": 2})
    client, place, left = boto3.client("s3", config=config), urlsplit(uri), LARGEST_BYTES
    for path in files(output_dir)[:MOST_FILES]:
        left -= path.stat().st_size
        if left < 0:
            break
        key = f"{place.path.lstrip('/')}/{path.relative_to(output_dir).as_posix()}"
        client.put_object(Bucket=place.netloc, Key=key, Body=path.read_bytes(), ContentType=content_type(path))


def files(output_dir: Path) -> list[Path]:
    """Return a run's files but for its tensors, first those that are looked at first."""
    found = [path for folder in FOLDERS for path in sorted((output_dir / folder).rglob("*")) if path.is_file()]
    return [*(path for path in [output_dir / HISTORY] if path.is_file()), *found]


def content_type(path: Path) -> str:
    """Return what a browser takes an object for."""
    kinds = {".html": "text/html; charset=utf-8", ".json": "application/json", ".gz": "application/gzip"}
    return kinds.get(path.suffix, "application/octet-stream")

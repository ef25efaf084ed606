"""What a scheduled check reads and says by itself: the newest captured requests in S3, and the score in CloudWatch.

Captured files are named after their time, yyyy/mm/dd/hh/mm-ss-mmm-id.jsonl (AWS guide, "model-monitor-data-capture").
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import boto3


def newest_requests(uri: str, most: int) -> list[str]:
    """Return at most so many captured events below an S3 URI, the newest first; no older folder is listed or read."""
    s3, (bucket, _, prefix) = boto3.client("s3"), uri.removeprefix("s3://").partition("/")
    keys = newest_keys(s3, bucket, f"{prefix.rstrip('/')}/")
    texts = (s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode(errors="replace") for key in keys)
    return list(islice((line for text in texts for line in reversed(text.split("\n")) if line.strip()), most))


def newest_keys(s3: Any, bucket: str, folder: str) -> Iterator[str]:
    """Yield the keys of captured files below a folder, the newest first, one folder at a time."""
    pages = list(s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=folder, Delimiter="/"))
    keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
    yield from sorted((key for key in keys if key.endswith(".jsonl")), reverse=True)
    for below in sorted((item["Prefix"] for page in pages for item in page.get("CommonPrefixes", [])), reverse=True):
        yield from newest_keys(s3, bucket, below)


def put_score(namespace: str, endpoint: str, score: float) -> None:
    """Put the drift score to CloudWatch, as `run_pipeline.py drift --publish` does: above 1 there is drift."""
    datum = {"MetricName": "DriftScore", "Dimensions": [{"Name": "EndpointName", "Value": endpoint}], "Value": score}
    boto3.client("cloudwatch").put_metric_data(Namespace=namespace, MetricData=[datum])

"""The end of a log in CloudWatch, as a person reads it after a failure. Source: DescribeLogStreams, GetLogEvents."""

from typing import Any

from botocore.exceptions import ClientError


def last_lines(logs: Any, group: str, prefix: str, count: int) -> list[str]:
    """The last lines of the newest stream whose name begins so; of the whole group's newest without a prefix.

    Empty where there is no such stream yet, or where it cannot be read: the step's own reason has been told.
    """
    try:
        stream = newest_stream(logs, group, prefix)
        if stream is None:
            return []
        answer = logs.get_log_events(logGroupName=group, logStreamName=stream, startFromHead=False, limit=count)
    except ClientError:
        return []
    return [event["message"].rstrip() for event in answer["events"]][-count:]


def newest_stream(logs: Any, group: str, prefix: str) -> str | None:
    """The name; a job on several instances has a stream for each."""
    if prefix:
        found = logs.describe_log_streams(logGroupName=group, logStreamNamePrefix=f"{prefix}/")["logStreams"]
        newest = max(found, key=lambda stream: stream.get("lastEventTimestamp", 0), default=None)
    else:
        found = logs.describe_log_streams(logGroupName=group, orderBy="LastEventTime", descending=True, limit=1)
        newest = next(iter(found["logStreams"]), None)
    return None if newest is None else str(newest["logStreamName"])

"""Data capture: a share of an endpoint's requests and answers, kept in the local S3 in SageMaker's own layout.

`<DestinationS3Uri>/<endpoint>/<variant>/yyyy/mm/dd/hh/<minute>-<second>-<ms>-<id>.jsonl`, UTC, one event a file (AWS
guide, "model-monitor-data-capture"; the service gathers events for some minutes, here each is there at once).
"""

import base64
import json
import random
import uuid
from datetime import UTC, datetime
from typing import Any

from pipeline.local.jobs.servers import Answer
from pipeline.local.store.state import Document
from pipeline.local.store.storage import Storage

JSON, CSV, BASE64 = "JSON", "CSV", "BASE64"
INFERENCE_ID = "X-Amzn-SageMaker-Inference-Id"
Headers = dict[str, str]


def capture(
    storage: Storage, config: Document, place: tuple[str, str], request: tuple[Headers, bytes], answer: Answer
) -> None:
    """Keep one invocation if the endpoint configuration says so and chance picks it.

    Args:
        config: CreateEndpointConfig's request.
        place: The endpoint's and the variant's name.
    """
    settings = config.get("DataCaptureConfig", {})
    if not settings.get("EnableCapture") or not 200 <= answer.status < 300:
        return
    if random.random() * 100 >= settings["InitialSamplingPercentage"]:
        return
    moment, event_id = datetime.now(UTC), str(uuid.uuid4())
    folder = "/".join((settings["DestinationS3Uri"].rstrip("/"), *place, f"{moment:%Y/%m/%d/%H}"))
    name = f"{moment:%M-%S}-{moment.microsecond // 1000:03}-{event_id}.jsonl"
    line = json.dumps(event(settings, request, answer, event_id, moment), ensure_ascii=False)
    storage.write(f"{folder}/{name}", f"{line}\n".encode())


def event(
    settings: Document, request: tuple[Headers, bytes], answer: Answer, event_id: str, moment: datetime
) -> dict[str, Any]:
    """One line of a capture file."""
    headers, body = request
    modes = {option["CaptureMode"] for option in settings["CaptureOptions"]}
    types = settings.get("CaptureContentTypeHeader", {})
    data: dict[str, Any] = {}
    if modes & {"Input", "InputAndOutput"}:
        data["endpointInput"] = payload(types, headers.get("Content-Type", ""), "INPUT", body)
    if modes & {"Output", "InputAndOutput"}:
        data["endpointOutput"] = payload(types, answer.content_type, "OUTPUT", answer.body)
    metadata = {"eventId": event_id, "inferenceTime": f"{moment:%Y-%m-%dT%H:%M:%SZ}"}
    if INFERENCE_ID in headers:
        metadata["inferenceId"] = headers[INFERENCE_ID]
    return {"captureData": data, "eventMetadata": metadata, "eventVersion": "0"}


def payload(types: Document, content_type: str, mode: str, body: bytes) -> dict[str, str]:
    """A body as text if its content type is listed as such, else in base64."""
    encoding = encoding_of(types, content_type)
    text = base64.b64encode(body).decode() if encoding == BASE64 else body.decode(errors="replace")
    return {"observedContentType": content_type, "mode": mode, "data": text, "encoding": encoding}


def encoding_of(types: Document, content_type: str) -> str:
    """CaptureContentTypeHeader's lists decide."""
    media_type = content_type.partition(";")[0].strip().lower()
    listed = {"JsonContentTypes": JSON, "CsvContentTypes": CSV}
    return next((encoding for key, encoding in listed.items() if media_type in types.get(key, [])), BASE64)

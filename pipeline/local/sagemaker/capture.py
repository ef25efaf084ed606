"""Data capture: a share of an endpoint's requests and answers, kept in the local S3 in SageMaker's own layout.

`<DestinationS3Uri>/<endpoint>/<variant>/yyyy/mm/dd/hh/<minute>-<second>-<ms>-<id>.jsonl`, UTC, one event a file (AWS
guide, "model-monitor-data-capture"; the service gathers events for some minutes, here each is there at once).
"""

import base64
import json
import random
import uuid
from datetime import UTC, datetime

from pipeline.definition.serving_requests import media_type
from pipeline.local.jobs.servers import Answer
from pipeline.local.store.state import Document
from pipeline.local.store.storage import Storage

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
    settings, headers = config.get("DataCaptureConfig", {}), request[0]
    if not settings.get("EnableCapture") or random.random() * 100 >= settings["InitialSamplingPercentage"]:
        return
    moment, event_id = datetime.now(UTC), str(uuid.uuid4())
    modes = {option["CaptureMode"] for option in settings["CaptureOptions"]}
    types, data = settings.get("CaptureContentTypeHeader", {}), {}
    if modes & {"Input", "InputAndOutput"}:
        data["endpointInput"] = payload(types, headers.get("Content-Type", ""), "INPUT", request[1])
    if modes & {"Output", "InputAndOutput"}:
        data["endpointOutput"] = payload(types, answer.headers.get("Content-Type", ""), "OUTPUT", answer.body)
    metadata = {"eventId": event_id, "inferenceTime": f"{moment:%Y-%m-%dT%H:%M:%SZ}"}
    if INFERENCE_ID in headers:
        metadata["inferenceId"] = headers[INFERENCE_ID]
    folder = "/".join((settings["DestinationS3Uri"].rstrip("/"), *place, f"{moment:%Y/%m/%d/%H}"))
    name = f"{moment:%M-%S}-{moment.microsecond // 1000:03}-{event_id}.jsonl"
    line = json.dumps({"captureData": data, "eventMetadata": metadata, "eventVersion": "0"}, ensure_ascii=False)
    storage.write(f"{folder}/{name}", f"{line}\n".encode())


def payload(types: Document, content_type: str, mode: str, body: bytes) -> dict[str, str]:
    """Return a body as text if CaptureContentTypeHeader lists its content type, else in base64."""
    kinds = {"JSON": types.get("JsonContentTypes", []), "CSV": types.get("CsvContentTypes", [])}
    encoding = next((kind for kind, listed in kinds.items() if media_type(content_type) in listed), "BASE64")
    text = base64.b64encode(body).decode() if encoding == "BASE64" else body.decode(errors="replace")
    return {"observedContentType": content_type, "mode": mode, "data": text, "encoding": encoding}

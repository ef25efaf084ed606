"""SageMaker Runtime: an endpoint's own answer."""

import re
from urllib.parse import unquote, urlsplit

from pipeline.local.jobs.servers import CUSTOM_ATTRIBUTES, TARGET_CONTAINER
from pipeline.local.sagemaker import endpoints
from pipeline.local.sagemaker.capture import INFERENCE_ID
from pipeline.local.store.answers import HttpRequest, Reply, RequestError
from pipeline.local.store.state import State


def answer_runtime(state: State, request: HttpRequest) -> Reply:
    """InvokeEndpoint; an error of the server becomes ModelError, as on the service."""
    match = re.fullmatch(r"/endpoints/([^/]+)/invocations", urlsplit(request.url).path)
    if request.operation != "InvokeEndpoint" or match is None:
        raise RequestError(
            "ValidationError", f"The local target does not answer sagemaker-runtime:{request.operation}."
        )
    handed_on = ("Content-Type", "Accept", CUSTOM_ATTRIBUTES, INFERENCE_ID, TARGET_CONTAINER)
    headers = {name: request.headers[name.lower()] for name in handed_on if name.lower() in request.headers}
    name = unquote(match[1])
    answer = endpoints.invoke_endpoint(state, name, request.body, headers)
    if not 200 <= answer.status < 300:
        return model_error(answer.status, answer.body.decode(errors="replace"))
    shown = {"Content-Type": answer.content_type, "x-Amzn-Invoked-Production-Variant": endpoints.variant(state, name)}
    if answer.custom_attributes is not None:
        shown[CUSTOM_ATTRIBUTES] = answer.custom_attributes
    return Reply(200, shown, answer.body)


def model_error(status: int, said: str) -> Reply:
    """ModelError, which the service makes of any answer that is not 2xx."""
    fault = "client" if 400 <= status < 500 else "server"
    content = {
        "Message": f'Received {fault} error ({status}) from primary with message "{said}".',
        "OriginalStatusCode": status,
        "OriginalMessage": said,
    }
    return Reply.json(content, 424, {"x-amzn-ErrorType": "ModelError"})

"""What every Python of a job loads at its start, since PYTHONPATH leads here: AWS clients ask the runner, never AWS.

botocore emits `before-send` with the finished HTTP request, and what a handler returns stands for the response. So a
request is built and its response read by botocore itself. Where no runner answers (a model's server, a job without
network), each call is refused by name. This file imports nothing of the pipeline's and, at first, next to nothing.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # typing itself would cost more than all of this
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

SOCKET_VARIABLE = "LOCAL_API_SOCKET"
METADATA = ("169.254.169.254", "169.254.170.2", "169.254.170.23", "fd00:ec2::254", "fd00:ec2::23")  # of EC2, ECS, EKS


class ClientFinder:
    """Waits for the import of botocore's list of handlers, in order to add ours."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """The module as it is found without this, with one more handler at its end."""
        if name != "botocore.handlers":
            return None
        sys.meta_path.remove(self)
        from importlib.util import find_spec

        spec = find_spec(name)
        if spec and spec.loader:
            load = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                load(module)
                module.BUILTIN_HANDLERS.insert(0, ("before-send", answer))
                module.BUILTIN_HANDLERS.insert(0, ("before-parameter-build", refuse_presigned))

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def answer(request: Any, event_name: str, **rest: Any) -> Any:
    """The response to a request, or a ClientError; event names are before-send.<service>.<operation>."""
    from botocore.awsrequest import AWSResponse
    from botocore.exceptions import ClientError
    from urllib3 import HTTPResponse

    service, operation = event_name.split(".", 2)[1:]
    head = {"service": service, "operation": operation, "method": request.method, "url": request.url}
    head["headers"] = {k.lower(): v.decode() if isinstance(v, bytes) else v for k, v in request.headers.items()}
    body = request.body.read() if hasattr(request.body, "read") else request.body or b""
    try:
        reply, stream = ask(head, body.encode() if isinstance(body, str) else body)
    except OSError as problem:
        said = f"{service}:{operation} was not sent: {problem}."
        raise ClientError({"Error": {"Code": "LocalTargetUnavailable", "Message": said}}, operation) from problem
    if "code" in reply:
        raise ClientError({"Error": {"Code": reply["code"], "Message": reply["message"]}}, operation)
    raw = HTTPResponse(stream, preload_content=False, decode_content=False)
    return AWSResponse(request.url, reply["status"], reply["headers"], raw)


def refuse_presigned(context: dict[str, Any], event_name: str, **rest: Any) -> None:
    """Refuse to make presigned URLs and forms, which would lead to AWS, by a ClientError."""
    if context.get("is_presign_request"):
        from botocore.exceptions import ClientError

        service, operation = event_name.split(".", 2)[1:]
        said = f"The local target makes no presigned URLs ({service}:{operation}): they would lead to AWS."
        raise ClientError({"Error": {"Code": "NotImplemented", "Message": said}}, operation)


def ask(head: dict[str, Any], body: bytes) -> tuple[dict[str, Any], Any]:
    """The runner's reply: its head, and its body as a stream; OSError if nobody answers."""
    import json
    import socket

    path = os.environ.get(SOCKET_VARIABLE)
    if not path:
        raise ConnectionError("nobody answers AWS requests here, and none leaves this machine")
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as talk:
            short = f"/proc/self/fd/{folder}/{os.path.basename(path)}"  # an address has room for 107 bytes
            talk.connect(short if os.path.exists("/proc/self/fd") else path)
            talk.sendall(json.dumps({**head, "body_bytes": len(body)}).encode() + b"\n")
            if body:  # else the reply may be there and the connection closed, which makes even an empty send an error
                talk.sendall(body)
            stream = talk.makefile("rb")  # keeps the connection
            reply = stream.readline()
            if not reply:
                raise ConnectionError("the local target could not answer; its runner's log says why")
            return json.loads(reply), stream
    finally:
        os.close(folder)


def refuse_metadata(event: str, arguments: Any) -> None:
    """An audit hook: no connection to where a machine in AWS gives credentials away."""
    if event == "socket.connect" and isinstance(arguments[1], tuple) and arguments[1][0] in METADATA:
        raise ConnectionRefusedError(f"{arguments[1][0]}: a job of the local target has no instance metadata")


def load_next() -> None:
    """The sitecustomize that the environment itself has, which this one hides."""
    import importlib.machinery

    here = os.path.dirname(__file__)
    folders = [folder for folder in sys.path if os.path.abspath(folder) != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", folders)
    if spec and spec.loader:
        module = sys.modules["sitecustomize"] = type(sys)("sitecustomize")
        module.__spec__, module.__file__ = spec, spec.origin
        spec.loader.exec_module(module)


def words_of_pip(words: list[str]) -> list[str] | None:
    """The arguments of `python -m pip` or of pip's own script; None if this is something else."""
    rest = iter(range(1, len(words)))
    for number in rest:
        if words[number] in ("-W", "-X"):
            next(rest, None)
        elif words[number] == "-m":
            return words[number + 2 :] if words[number + 1 : number + 2] == ["pip"] else None
        elif words[number] == "-c" or not words[number].startswith("-"):
            is_pip = os.path.basename(words[number]).rstrip("0123456789.") == "pip"
            return words[number + 1 :] if is_pip else None
    return None


is_guarded = "LOCAL_PACKAGES" in os.environ and "LOCAL_REAL_PIP" not in os.environ
if is_guarded and (pip_words := words_of_pip(sys.orig_argv)) is not None:
    job_pip = os.path.join(os.path.dirname(__file__), "job_pip.py")
    os.execv(sys.executable, [sys.executable, job_pip, *pip_words])
sys.meta_path.insert(0, ClientFinder())
sys.addaudithook(refuse_metadata)
sys.modules["local_guest"] = sys.modules[__name__]  # for job_pip.py, under a name that stays
load_next()

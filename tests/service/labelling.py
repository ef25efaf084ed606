"""A model whose server answers as this project's do.

An image file's content says its class and score, and, where it matters, how many seconds to wait: `b"cat 0.9 0.1"`.
"""

from pathlib import Path
from typing import Any

from pipeline.local.sagemaker.session import local_session
from pipeline.local.store.state import State
from tests.service import plain_versions
from tests.service.plain_versions import ENDPOINT, ROLE

SERVER = r"""
import json, os, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

last = time.monotonic()
lock, seen, running, most = threading.Lock(), [], 0, 0


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        content = {"MaxConcurrentTransforms": 2} if self.path == "/execution-parameters" else {}
        self.answer(200, content)

    def do_POST(self):
        global last, running, most
        last = time.monotonic()
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with lock:
            running += 1
            most = max(most, running)
        try:
            answer = said(body, dict(self.headers))
        finally:
            with lock:
                running -= 1  # before the answer: who has it may send the next at once
        self.answer(*answer)

    def answer(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


def said(body, headers):
    words = body.decode(errors="replace").split()
    if words[:1] == ["most"]:
        return 200, {"most": most, "batch": os.environ.get("SAGEMAKER_BATCH"), "headers": headers}
    if words[:1] == ["busy"]:
        seen.append(body)
        return (503, {"error": "Full."}) if seen.count(body) < int(words[1]) else (200, {"calls": seen.count(body)})
    if words[:1] == ["sleep"]:
        time.sleep(float(words[1]))
    if body[:4] == b"\x89PNG":
        words = ["png", "0.75"]
    try:
        label, score = words[0], float(words[1])
    except (IndexError, ValueError):
        return 400, {"error": "The image cannot be read."}
    time.sleep(float(words[2]) if len(words) > 2 else 0)
    other = {"label": "other", "score": round(1 - score, 6)}
    confident = {"confident": score >= 0.5} if label == "judged" else {}
    return 200, {"label": label, "score": score, "top": [{"label": label, "score": score}, other], **confident}


def end_when_idle(seconds):
    while time.monotonic() - last < seconds:
        time.sleep(0.02)
    os._exit(0)


threading.Thread(target=end_when_idle, args=[float(os.environ["ENDPOINT_IDLE_SECONDS"])], daemon=True).start()
address = os.environ["BIND_HOST"], int(os.environ["SAGEMAKER_BIND_TO_PORT"])
ThreadingHTTPServer(address, Handler).serve_forever()
"""


def registered(home: Path, *statuses: str) -> list[str]:
    """Versions of the group with that server; their ARNs."""
    return plain_versions.registered(home, *statuses, files={"code/serve.py": SERVER})


def deployed(home: Path) -> None:
    """The endpoint, in service or about to be."""
    [arn] = registered(home, "Approved")
    model = {"ModelName": "m", "PrimaryContainer": {"ModelPackageName": arn}, "ExecutionRoleArn": ROLE}
    client(home).create_model(**model)
    variant = {"VariantName": "Main", "ModelName": "m", "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    client(home).create_endpoint_config(EndpointConfigName="c", ProductionVariants=[variant])
    client(home).create_endpoint(EndpointName=ENDPOINT, EndpointConfigName="c")


def end(home: Path) -> None:
    """No endpoint is left."""
    for endpoint in client(home).list_endpoints()["Endpoints"]:
        client(home).delete_endpoint(EndpointName=endpoint["EndpointName"])


def client(home: Path) -> Any:
    """SageMaker of a home."""
    return local_session(State(home)).client("sagemaker")

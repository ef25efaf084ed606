"""A model's server of the standard library, which says what it was told."""

import json
import os
import secrets
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MODE = os.environ.get("MODE", "")
NAME = Path(os.environ["SM_MODEL_DIR"], "name.txt").read_text()
PROCESS = secrets.token_hex(4)
ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
last = time.monotonic()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(503 if MODE == "deaf" else 200, b"")

    def do_POST(self):
        global last
        last = time.monotonic()
        body = self.rfile.read(int(self.headers["Content-Length"]))
        word, _, number = body.decode(errors="replace").partition(" ")
        if word == "crash":
            os._exit(3)
        if word == "drop":
            return
        if word == "sleep":
            time.sleep(float(number))
        told = {"headers": dict(self.headers), "bytes": len(body), "environment": dict(os.environ)}
        said = {"model": NAME, "process": PROCESS, **told}
        self.answer(int(number) if word == "status" else 200, json.dumps(said).encode())

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if ATTRIBUTES in self.headers:
            self.send_header(ATTRIBUTES, "seen")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


def end_when_idle(seconds):
    while time.monotonic() - last < seconds:
        time.sleep(0.02)
    os._exit(0)


assert sys.argv[1:] == ["serve"], sys.argv
if MODE == "dies":
    sys.exit("ValueError: no such weights")
if MODE == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(float(os.environ.get("SECONDS_TO_START", "0")))
threading.Thread(target=end_when_idle, args=[float(os.environ["ENDPOINT_IDLE_SECONDS"])], daemon=True).start()
address = os.environ["BIND_HOST"], int(os.environ["SAGEMAKER_BIND_TO_PORT"])
ThreadingHTTPServer(address, Handler).serve_forever()

"""`experiments`: executions as runs in MLflow, and MLflow's own page on them."""

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress

from pipeline.cli.call import Call
from pipeline.cli.output import opened, print_json
from pipeline.errors import UsageError
from pipeline.service.experiments import ENVIRONMENT, store_uri, write_executions

UI = (sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--workers", "1", "--backend-store-uri")


def experiments(call: Call, pipeline: str | None = None, last_executions: int = 20, open_ui: bool = False) -> int:
    """Write what is not written yet of the newest executions, and say how they are looked at."""
    if open_ui and call.target == "aws":
        raise UsageError("--open is this machine's; an account's MLflow is opened in SageMaker Studio.")
    call.pipeline = pipeline
    target = call.open_target(reads_only=True)
    uri = store_uri(target, call.home)
    written = write_executions(target, call.home, call.pipeline_name, last_executions)
    look = shlex.join([*UI, uri]) if call.target == "local" else "MLflow in SageMaker Studio"
    if call.as_json:
        return print_json({"store": uri, "written": written, "look": look})
    print(f"Written  {', '.join(written) or 'nothing new'}\nStore    {uri}\nLook     {look}", flush=True)
    return serve_ui(uri) if open_ui else 0


def serve_ui(uri: str) -> int:
    """Serve MLflow's page until Ctrl-C; return its exit status if it ends by itself."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with subprocess.Popen([*UI, uri, "--port", str(port)], env=os.environ | ENVIRONMENT) as server:
        with suppress(KeyboardInterrupt):
            while server.poll() is None:
                with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    address = f"http://127.0.0.1:{port}"
                    print(f"Page     {address}{opened(address, no_open=False)}", flush=True)
                    return server.wait()
                time.sleep(0.2)
        server.terminate()
    return 0

"""The process in which a Lambda handler runs: `python function_host.py FOLDER TIMEOUT_SECONDS`, a program of its own.

Reads `event.json` from the folder and writes `outcome.json`: {"result": ...} or {"errorType", "errorMessage"}, as
Lambda's own runtime reports.
"""

import importlib.util
import json
import os
import sys
import time
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any


def outcome(event: Any, deadline: float) -> dict[str, Any]:
    """What the handler returned or raised."""
    try:
        result = load_handler()(event, context(deadline))
        json.dumps(result)
    except Exception as error:  # noqa: BLE001  a handler may raise anything; Lambda reports its type and text
        traceback.print_exc()
        return {"errorType": type(error).__name__, "errorMessage": str(error)}
    return {"result": result}


def load_handler() -> Any:
    """The handler that _HANDLER names; its folder is importable, as in Lambda, and not this file's."""
    sys.path[0] = os.environ["LAMBDA_TASK_ROOT"]
    name, _, function = os.environ["_HANDLER"].rpartition(".")
    script = Path(sys.path[0]) / f"{name}.py"
    if not script.is_file():  # in a package
        return getattr(importlib.import_module(name), function)
    spec = importlib.util.spec_from_file_location(name, script)  # whatever other module has its name
    assert spec and spec.loader
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, function)


def context(deadline: float) -> SimpleNamespace:
    """The part of Lambda's context object that handlers read."""
    name = os.environ["AWS_LAMBDA_FUNCTION_NAME"]
    return SimpleNamespace(
        function_name=name,
        function_version=os.environ["AWS_LAMBDA_FUNCTION_VERSION"],
        invoked_function_arn=f"arn:aws:lambda:us-east-1:000000000000:function:{name}",
        memory_limit_in_mb=os.environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"],
        aws_request_id=Path(os.environ.get("LOCAL_JOB_FOLDER", name)).name,
        log_group_name=os.environ["AWS_LAMBDA_LOG_GROUP_NAME"],
        log_stream_name=os.environ["AWS_LAMBDA_LOG_STREAM_NAME"],
        identity=None,
        client_context=None,
        get_remaining_time_in_millis=lambda: int(1000 * (deadline - time.monotonic())),
    )


if __name__ == "__main__":
    folder, unfinished = Path(sys.argv[1]), Path(sys.argv[1], ".outcome.json")
    event = json.loads((folder / "event.json").read_text())
    unfinished.write_text(json.dumps(outcome(event, time.monotonic() + float(sys.argv[2]))))
    unfinished.replace(folder / "outcome.json")

"""Server and runner that are killed while a run that the page has started is under way."""

import contextlib
import os
import signal
from pathlib import Path

import pytest

from tests.local.samples import processes_of, python_step, wait_until
from tests.studio.conftest import Studio
from tests.studio.test_runs import ended, make, started, words


@pytest.mark.parametrize("victims", ["server", "both"])
def test_pages_tell_the_truth_after_a_kill_and_retry_goes_on(tmp_path: Path, victims: str) -> None:
    server, go = Studio(tmp_path / "home", tmp_path / "log"), tmp_path / "home/go"
    code = f"import os, time; print('begun', flush=True)\nwhile not os.path.exists({str(go)!r}): time.sleep(0.1)"
    make(server, "slow", python_step("A", "pass"), python_step("B", code, depends_on=["A"]))
    address = started(server, "slow")
    wait_until(lambda: "begun" in server.get(f"{address}?step=B").text)
    server.process.send_signal(signal.SIGKILL)
    server.process.wait(10)
    if victims == "both":
        for pid in processes_of(server.home):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    server.start()
    arn = "arn:aws:sagemaker:us-east-1:000000000000:pipeline/" + address.split("/", 2)[2].replace("/", "/execution/")
    if victims == "both":
        assert "Failed" in words(ended(server, address, "?step=B"))
        status = server.client("sagemaker").describe_pipeline_execution(PipelineExecutionArn=arn)
        assert status["PipelineExecutionStatus"] == "Failed"
        server.post(f"{address}/retry")
    assert "running for" in server.get(address).text
    go.touch()
    assert "Succeeded" in words(ended(server, address))
    steps = server.client("sagemaker").list_pipeline_execution_steps(PipelineExecutionArn=arn)["PipelineExecutionSteps"]
    assert {step["StepStatus"] for step in steps} == {"Succeeded"}
    server.end()

"""Models without a server of their own: handler functions, TorchScript, inference pipelines."""

import importlib.util
import io
import os
import signal

import numpy
import torch

from tests.local.samples import model_archive, processes_of, wait_until, wheel
from tests.local.serving.serving_home import cases, refusal

ECR = "763104351884.dkr.ecr.us-east-1.amazonaws.com"
ROWS = """
import json
from pathlib import Path
from helper import double

def model_fn(model_dir):
    return float((Path(model_dir) / "name.txt").read_text())

def predict_fn(data, model):
    return double(data) * model

if __name__ == "__main__":
    raise SystemExit("this part trains")
"""
FILES = {"code/inference.py": ROWS, "code/helper.py": "def double(x): return 2 * x", "name.txt": "3"}
WORDS = """
def model_fn(model_dir, context):
    return context.system_properties["model_dir"]

def transform_fn(model, body, content_type, accept):
    if body == "fail":
        raise ValueError("no such word")
    return f"{{body}}{suffix}<{{content_type}}<{{accept}}", "text/csv"
"""


# An endpoint, what it is sent, as which content type, what is accepted; the answer, or the status and a part of the
# message. Scripts that cannot be loaded, and why.
ANSWERS, REFUSALS, BROKEN = cases("handlers").values()


def npy(*values):
    stream = io.BytesIO()
    numpy.save(stream, numpy.array(values))
    return stream.getvalue()


def words(home, suffix, **environment):
    return home.container(suffix, {"code/inference.py": WORDS.format(suffix=suffix)}, **environment)


def kinds(content_type, accept):
    return {key: value for key, value in (("ContentType", content_type), ("Accept", accept)) if value}


def test_handlers_have_the_defaults_of_the_inference_toolkit(home):
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Flatten(0)), buffer)
    image = {"Image": f"{ECR}/pytorch-inference:2.2-cpu"}  # in which TorchScript needs no script
    containers = {
        "rows": home.container("rows", FILES),
        "torch": {**home.container("torch", {"model.pt": buffer.getvalue()}), **image},
        "words": words(home, "!", SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT="text/csv"),
    }
    for number, script in enumerate(BROKEN):
        home.storage.write(f"s3://bucket/loose{number}/code/inference.py", script.encode())
        source = {"S3Uri": f"s3://bucket/loose{number}/", "S3DataType": "S3Prefix", "CompressionType": "None"}
        containers[f"broken{number}"] = {"ModelDataSource": {"S3DataSource": source}}
    for name, container in containers.items():
        home.model(name, container)
        home.create(name, name)
    for number, because in enumerate(BROKEN.values()):
        found = home.settled(f"broken{number}")
        assert found["FailureReason"].startswith(f"The server did not pass /ping: {because}")
    for endpoint, body, content_type, accept, expected in ANSWERS:
        answer = home.answer(body, endpoint, **kinds(content_type, accept))
        assert (answer["ContentType"], answer["Body"].decode()) == (accept or "text/csv", expected)
    answer = home.answer(npy(5.0), "rows", **kinds("application/x-npy", "application/x-npy"))
    assert answer["Body"] == npy(30.0)
    for endpoint, body, content_type, accept, status, said in REFUSALS:
        refused = refusal(home.answer, body.encode("latin-1"), endpoint, **kinds(content_type, accept))
        assert (refused["OriginalStatusCode"], said in refused["OriginalMessage"]) == (status, True)
    assert home.invoke("[1]", "rows") == [6.0]  # JSON unless said otherwise


def test_a_script_elsewhere_has_its_own_requirements_and_folders_and_nothing_that_it_starts_outlives_it(
    home, can_mount
):
    name, wheel_bytes = wheel("tinyword", "7.0")
    code = f"""
import os, subprocess, sys, tinyword
from pathlib import Path
def attempt(path):
    try:
        return Path(path).write_text("x") and "written"
    except OSError:
        return "refused"
def model_fn(folder):
    daemon = [sys.executable, "-c", "import time; time.sleep(60)", {str(home.folder)!r}]
    subprocess.Popen(daemon, env={{}}, start_new_session=True)
    return folder
def predict_fn(data, folder):
    paths = (f"{{folder}}/own", "/tmp/own", os.environ["HOME"] + "/own", {str(home.folder / "s3/owned")!r})
    return [tinyword.VERSION, *map(attempt, paths)]
"""
    files = {"handler.py": code, "requirements.txt": f"numpy\n./{name}\n", name: wheel_bytes}
    home.storage.write("s3://bucket/code/sourcedir.tar.gz", model_archive("m", **files))
    variables = {"SAGEMAKER_PROGRAM": "handler.py", "SAGEMAKER_SUBMIT_DIRECTORY": "s3://bucket/code/sourcedir.tar.gz"}
    home.served("m", home.container("m", {}, **variables))
    assert home.invoke("[1]") == ["7.0", *["written"] * 3, "refused" if can_mount else "written"]
    assert importlib.util.find_spec("tinyword") is None
    assert len(processes_of(home.folder)) == 2
    home.delete()
    wait_until(lambda: not processes_of(home.folder))


def test_containers_answer_in_turn(home):
    server = home.served("m", words(home, "a"), words(home, "b"), home.container("c"))
    said = home.invoke("x", ContentType="text/csv", Accept="application/json")
    assert (said["model"], said["bytes"]) == ("c", len("xa<text/csv<application/jsonb<text/csv<application/json"))
    assert (said["headers"]["Content-Type"], said["headers"]["Accept"]) == ("text/csv", "application/json")
    assert refusal(home.answer, "fail", ContentType="text/csv")["OriginalMessage"] == "ValueError: no such word"
    os.kill(server["pid"], signal.SIGKILL)  # and with it those behind it
    assert home.invoke("x", ContentType="text/csv")["model"] == "c"
    assert len(processes_of(home.folder)) == 4
    os.kill(sorted(processes_of(home.folder))[1], signal.SIGKILL)  # one behind the first
    wait_until(lambda: not processes_of(home.folder))
    assert home.invoke("x", ContentType="text/csv")["model"] == "c"


def test_a_version_of_several_containers_transforms(home):
    home.sagemaker.create_model_package_group(ModelPackageGroupName="group")
    types = {"SupportedContentTypes": ["text/csv"], "SupportedResponseMIMETypes": ["text/csv"]}
    version = home.sagemaker.create_model_package(
        ModelPackageGroupName="group",
        ModelApprovalStatus="Approved",
        InferenceSpecification={"Containers": [words(home, "a"), words(home, "b")], **types},
    )
    home.model("m", {"ModelPackageName": version["ModelPackageArn"]})
    home.put(x="1\n2\n")
    lines = {"SplitType": "Line", "AssembleWith": "Line", "BatchStrategy": "SingleRecord"}
    home.transform("m", ContentType="text/csv", Accept="text/csv", **lines)
    home.ended()
    assert home.output("x").splitlines() == [f"{n}a<text/csv<application/jsonb<text/csv<text/csv" for n in (1, 2)]

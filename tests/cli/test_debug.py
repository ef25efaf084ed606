"""`debug` on a folder, an S3 prefix and a training job of this machine."""

import json
from pathlib import Path

import pytest
from small_training import trained

from tests.local.samples import definition

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # smdebug's protobuf code is of 2020


def test_a_folder_is_judged_and_its_verdicts_kept(cli):
    trained(Path("run/debug-output"))
    said = cli("debug", "run")
    assert (said.status, said.error) == (0, "")
    assert "LossNotFinite" in said.out
    assert max(map(len, said.out.splitlines())) <= 80
    assert json.loads(Path("home/reports/debug-run/rules/status.json").read_text())["schema_version"] == 2
    failed = cli("debug", "run", "--fail-on", "LossNotFinite", "--json", "--out", "kept")
    assert (failed.status, json.loads(failed.out)["folder"]) == (1, "run")
    assert Path("kept/rules/status.json").is_file()


def test_a_training_job_is_named(cli, files):
    """Its script leaves what smdebug has written before."""
    trained(Path("home/s3/bucket/saved"))
    code = "shutil.copytree('/opt/ml/input/data/saved', '/opt/ml/output/tensors', dirs_exist_ok=True)"
    files(job_json=definition(training_step(f"import shutil; {code}")))
    assert cli("run", "--definition", "job.json").status == 0
    [job] = [path.name for path in Path("home/jobs").iterdir()]
    for named in (job, "s3://bucket/saved"):
        assert "LossNotFinite" in cli("debug", named).out


def training_step(code: str) -> dict[str, object]:
    source = {"S3DataType": "S3Prefix", "S3Uri": "s3://bucket/saved"}
    arguments = {
        "AlgorithmSpecification": {
            "TrainingImage": "image",
            "TrainingInputMode": "File",
            "ContainerEntrypoint": ["python3", "-c", code],
        },
        "InputDataConfig": [{"ChannelName": "saved", "DataSource": {"S3DataSource": source}}],
        "OutputDataConfig": {"S3OutputPath": "s3://bucket/out"},
        "ResourceConfig": {"InstanceCount": 1, "InstanceType": "ml.m5.large", "VolumeSizeInGB": 1},
        "StoppingCondition": {"MaxRuntimeInSeconds": 60},
        "RoleArn": "arn:aws:iam::123456789012:role/any",
    }
    return {"Name": "Train", "Type": "Training", "Arguments": arguments}


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("no-such-job", "no-such-job"),
        ("no/folder", "'no/folder' is neither a folder, nor an s3:// prefix, nor the name of a training job."),
        ("s3://bucket/nothing", "s3://bucket/nothing"),
        (".", ". holds no run"),
    ],
)
def test_what_there_is_not_is_one_sentence(cli, source, sentence):
    said = cli("debug", source)
    assert (said.status, said.out, said.error.count("\n")) == (2, "", 1)
    assert sentence in said.error

"""Training jobs: both launchers and own entry points, what a script is given, metrics, artifacts and ends."""

import json
import os
import signal
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from tests.local.lab import Lab, compare, condition, get, join, parameter

DUMP = """
    import json, os, sys
    names = ("SM_", "TRAINING_", "OWN")
    print(json.dumps({"argv": sys.argv, "cwd": os.getcwd(),
                      "env": {k: v for k, v in os.environ.items() if k.startswith(names)},
                      "hyperparameters": json.load(open("/opt/ml/input/config/hyperparameters.json")),
                      "inputs": json.load(open("/opt/ml/input/config/inputdataconfig.json")),
                      "resources": json.load(open("/opt/ml/input/config/resourceconfig.json"))}))
"""
RESOURCES = {
    "current_host": "algo-1",
    "current_instance_type": "ml.m5.large",
    "current_group_name": "homogeneousCluster",
    "hosts": ["algo-1"],
    "instance_groups": [
        {"instance_group_name": "homogeneousCluster", "instance_type": "ml.m5.large", "hosts": ["algo-1"]}
    ],
    "network_interface_name": "eth0",
}
CHANNEL = {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated", "RecordWrapperType": "None"}
FOLDERS = {
    "SM_MODEL_DIR": "/opt/ml/model",
    "SM_INPUT_DIR": "/opt/ml/input",
    "SM_INPUT_DATA_DIR": "/opt/ml/input/data",
    "SM_INPUT_CONFIG_DIR": "/opt/ml/input/config",
    "SM_OUTPUT_DIR": "/opt/ml/output",
    "SM_OUTPUT_FAILURE": "/opt/ml/output/failure",
    "SM_OUTPUT_DATA_DIR": "/opt/ml/output/data",
    "SM_LOG_LEVEL": "20",
    "SM_CURRENT_HOST": "algo-1",
    "SM_CURRENT_INSTANCE_TYPE": "ml.m5.large",
    "SM_NETWORK_INTERFACE_NAME": "eth0",
    "SM_NUM_CPUS": str(os.cpu_count()),
    "SM_NUM_GPUS": "0",
    "SM_NUM_NEURONS": "0",
}
pytestmark = pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="the expected SM_NUM_GPUS is 0")


def lines_of(lab: Lab, uri: str) -> list[str]:
    """The members of a .tar.gz object."""
    with tarfile.open(lab.path(uri)) as archive:
        return sorted(archive.getnames())


def test_the_drivers_give_a_script_what_they_give_it_on_sagemaker(lab: Lab) -> None:
    lab.put("s3://bucket/data/a.txt", "A")
    step = lab.drivers(
        "Train",
        {"train.py": DUMP, "helper.py": ""},
        {"entry_script": "train.py"},
        {
            "lr": "0.1",
            "epochs": get("Parameters.Epochs"),
            "name": "res net",
            "flag": "true",
            "sizes": "[1, 2]",
            "some-thing": '{"a": 1}',
            "nothing": "null",
        },
        channels={"my-data": "s3://bucket/data"},
        environment={"OWN": get("Parameters.Epochs")},
    )
    report = lab.run(step, parameters=[parameter("Epochs", "Integer", 3)])
    assert report.statuses == {"Train": "Succeeded"}
    found = report.printed("Train")
    job = report.record("Train")["Job"]
    arguments = ["--lr", "0.1", "--epochs", "3", "--name", "res net", "--flag", "true", "--sizes", "[1, 2]"]
    assert found["argv"] == ["train.py", *arguments, "--some-thing", '{"a": 1}', "--nothing", "null"]
    assert found["cwd"] == "/opt/ml/input/data/code"
    assert found["resources"] == RESOURCES
    assert found["inputs"] == dict.fromkeys(["my-data", "code", "sm_drivers"], CHANNEL)
    assert found["hyperparameters"]["epochs"] == "3"
    environment: dict[str, Any] = found["env"]
    training_env = json.loads(environment.pop("SM_TRAINING_ENV"))
    assert (training_env["job_name"], training_env["master_addr"], training_env["master_port"]) == (job, "algo-1", 7777)
    values = {"lr": 0.1, "epochs": 3, "name": "res net", "flag": True, "sizes": [1, 2], "some-thing": {"a": 1}}
    assert json.loads(environment.pop("SM_HPS")) == training_env["hyperparameters"] == {**values, "nothing": None}
    assert json.loads(environment.pop("SM_RESOURCE_CONFIG")) == RESOURCES
    assert json.loads(environment.pop("SM_INPUT_DATA_CONFIG")) == found["inputs"]
    assert environment == {
        **FOLDERS,
        "OWN": "3",
        "TRAINING_JOB_NAME": job,
        "TRAINING_JOB_ARN": f"arn:aws:sagemaker:us-east-1:000000000000:training-job/{job}",
        "SM_MASTER_ADDR": "algo-1",
        "SM_MASTER_PORT": "7777",
        "SM_HOSTS": '["algo-1"]',
        "SM_HOST_COUNT": "1",
        "SM_CURRENT_HOST_RANK": "0",
        "SM_SOURCE_DIR": "/opt/ml/input/data/code",
        "SM_ENTRY_SCRIPT": "train.py",
        "SM_CHANNELS": '["my-data", "code", "sm_drivers"]',
        "SM_CHANNEL_MY-DATA": "/opt/ml/input/data/my-data",
        "SM_CHANNEL_CODE": "/opt/ml/input/data/code",
        "SM_CHANNEL_SM_DRIVERS": "/opt/ml/input/data/sm_drivers",
        "SM_HP_LR": "0.1",
        "SM_HP_EPOCHS": "3",
        "SM_HP_NAME": "res net",
        "SM_HP_FLAG": "true",
        "SM_HP_SIZES": "[1, 2]",
        "SM_HP_SOME_THING": '{"a": 1}',
        "SM_HP_NOTHING": "null",
    }


def test_the_toolkit_gives_a_script_what_it_gives_it_on_sagemaker(lab: Lab) -> None:
    lab.put("s3://bucket/data/a.txt", "A")
    values = {"batch-size": "32", "k": "1", "flag": "True", "on": "true", "cfg": '{"b": 2, "a": 1}', "none": "null"}
    step = lab.training("Train", DUMP, values, channels={"train": "s3://bucket/data"}, environment={"OWN": True})
    report = lab.run(step)
    assert report.statuses == {"Train": "Succeeded"}
    found = report.printed("Train")
    arguments = ["--batch-size", "32", "--cfg", "a=1,b=2", "--flag", "True", "-k", "1", "--none", "", "--on", "True"]
    assert found["argv"] == ["train.py", *arguments]
    assert found["cwd"] == "/opt/ml/code"
    environment = found["env"]
    assert {name: environment[name] for name in FOLDERS} == FOLDERS
    expected = {
        "OWN": "true",
        "SM_CHANNELS": '["train"]',
        "SM_CHANNEL_TRAIN": "/opt/ml/input/data/train",
        "SM_HOSTS": '["algo-1"]',
        "SM_HP_BATCH-SIZE": "32",
        "SM_HP_FLAG": "True",
        "SM_HP_ON": "true",
        "SM_HP_CFG": '{"a":1,"b":2}',
        "SM_HP_NONE": "",
        "SM_HPS": '{"batch-size":32,"cfg":{"a":1,"b":2},"flag":"True","k":1,"none":null,"on":true}',
        "SM_USER_ARGS": json.dumps(arguments, separators=(",", ":")),
        "SM_USER_ENTRY_POINT": "train.py",
        "SM_MODULE_NAME": "train",
        "SM_MODULE_DIR": "s3://bucket/code/Train/sourcedir.tar.gz",
        "SM_FRAMEWORK_MODULE": "",
        "SM_OUTPUT_INTERMEDIATE_DIR": "/opt/ml/output/intermediate",
    }
    assert {name: environment.get(name) for name in expected} == expected
    assert not [name for name in environment if name.startswith(("SM_MASTER", "SM_SOURCE_DIR"))]


def test_the_toolkit_takes_code_from_a_channel_as_a_directory_an_archive_or_a_file(lab: Lab) -> None:
    files = {"train.py": "import lib", "lib.py": "import os; print(os.getcwd(), sorted(os.listdir()))"}
    for name, text in files.items():
        lab.put(f"s3://bucket/code/folder/{name}", text)
    lab.archive("s3://bucket/code/packed/src.tar.gz", files)
    lab.put("s3://bucket/code/single/train.py", "import os; print(os.getcwd(), sorted(os.listdir()))")
    steps = []
    for prefix, path in (("folder", "code"), ("packed", "code/src.tar.gz"), ("single", "code/train.py")):
        step = lab.training(prefix.title(), "", channels={"code": f"s3://bucket/code/{prefix}"})
        step["Arguments"]["HyperParameters"]["sagemaker_submit_directory"] = f"/opt/ml/input/data/{path}"
        steps.append(step)
    report = lab.run(*steps)
    assert [report.log(name) for name in ("Folder", "Packed", "Single")] == [
        "/opt/ml/code ['lib.py', 'train.py']\n",
        "/opt/ml/code ['lib.py', 'train.py']\n",
        "/opt/ml/code ['train.py']\n",
    ]


def test_an_own_entry_point_runs_as_in_a_bare_container(lab: Lab) -> None:
    step = lab.training("Train", "")
    step["Arguments"]["HyperParameters"] = {"n": 3}
    step["Arguments"]["AlgorithmSpecification"] |= {
        "ContainerEntrypoint": ["bash", "-c"],
        "ContainerArguments": ['echo "$PWD $SM_MODEL_DIR $TRAINING_JOB_NAME"; cat input/config/hyperparameters.json'],
    }
    report = lab.run(step)
    assert report.log("Train") == f'/opt/ml  {report.record("Train")["Job"]}\n{{"n": "3"}}'


def test_a_shell_script_is_run_by_its_own_first_line(lab: Lab) -> None:
    script = '#!/bin/bash\nwords=("$@"); echo "${#words[@]} ${words[1]} $SM_HP_A"\n'
    drivers = lab.drivers("Drivers", {"run.sh": script}, {"entry_script": "run.sh"}, {"a": "x y", "b": "2"})
    uri = lab.archive("s3://bucket/code/shell.tar.gz", {"run.sh": script})
    toolkit = lab.training("Toolkit", "", {"a": "x y", "b": "2"})
    toolkit["Arguments"]["HyperParameters"] |= {
        "sagemaker_program": "run.sh",
        "sagemaker_submit_directory": uri,
    }
    report = lab.run(drivers, toolkit)
    assert [report.log(name) for name in ("Drivers", "Toolkit")] == ["4 x y x y\n"] * 2


def test_a_command_runs_in_a_shell_with_its_arguments_and_without_hyperparameters(lab: Lab) -> None:
    step = lab.drivers(
        "Train",
        {"tool.py": "import json, os, sys; print(sys.argv[1:], json.loads(os.environ['SM_HPS']))"},
        {"command": "cd . && python tool.py $SM_HP_LR", "args": ["a b", "$HOME", 3], "entry_script": "ignored.py"},
        {"lr": "0.1"},
    )
    assert lab.run(step).log("Train") == "['0.1', 'a b', '$HOME', '3'] {'lr': 0.1}\n"


def test_source_code_given_as_an_archive_is_unpacked(lab: Lab) -> None:
    lab.archive("s3://bucket/Train/code/src.tar.gz", {"train.py": "import lib", "lib.py": "print('from the archive')"})
    step = lab.drivers("Train", {}, {"entry_script": "train.py", "source_dir": "s3://elsewhere/src.tar.gz"})
    assert lab.run(step).log("Train") == "from the archive\n"


def test_requirements_that_are_there_cost_nothing_and_others_are_asked_for_in_the_job_alone(lab: Lab) -> None:
    there = "# a comment\nnumpy>=1\npytest ; python_version < '3'\nno-such; python_version < '3'\n--find-links /none\n"
    code = "print('started')"
    first = lab.drivers("There", {"t.py": code, "r.txt": there}, {"entry_script": "t.py", "requirements": "r.txt"})
    wanted = "--no-index\n--find-links .\nlocal-made==1.0\nnumpy\n"
    second = lab.drivers(
        "Wanted",
        {"t.py": "import local_made; print(local_made.__file__)", "r.txt": wanted, **wheel()},
        {"entry_script": "t.py", "requirements": "r.txt"},
    )
    report = lab.run(first, second)
    assert report.statuses == {"There": "Succeeded", "Wanted": "Succeeded"}
    assert report.log("There") == "started\n"
    assert report.log("Wanted").splitlines()[-1] == "/opt/ml/packages/local_made.py"


def wheel() -> dict[str, bytes]:
    """The smallest package that pip installs."""
    import io
    import zipfile

    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("local_made.py", "")
        info = "local_made-1.0.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: local-made\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", f"local_made.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return {"local_made-1.0-py3-none-any.whl": stream.getvalue()}


def test_torchrun_starts_as_many_processes_as_asked(lab: Lab) -> None:
    before = torchrun_leftovers()
    code = "import os, sys; sys.stdout.write(f\"{os.environ['RANK']} {os.environ['WORLD_SIZE']} {sys.argv[1:]}\\n\")"
    step = lab.drivers(
        "Train",
        {"train.py": code},
        {"entry_script": "train.py"},
        {"lr": "0.1"},
        distributed={"process_count_per_node": 2, "smp": None},
        environment={"OMP_NUM_THREADS": "1"},
    )
    report = lab.run(step)
    assert report.statuses == {"Train": "Succeeded"}
    shown = sorted(line for line in report.log("Train").splitlines() if "lr" in line)
    assert shown == ["0 2 ['--lr', '0.1']", "1 2 ['--lr', '0.1']"]
    assert torchrun_leftovers() <= before


def torchrun_leftovers() -> set[Path]:
    """Folders that torchrun makes for its logs where it is not told another place."""
    return set(Path(tempfile.gettempdir()).glob("torchelastic_*"))


def test_metrics_are_read_from_both_streams_and_used_downstream(lab: Lab) -> None:
    step = lab.training(
        "Train",
        """
        import sys
        print("epoch=1 val:acc=0.5 loss=1e-3")
        print("epoch=2 val:acc=0.75", file=sys.stderr)
        print("val:acc=nan loss=inf maybe=")
        sys.stdout.write("last=7")
        """,
        metrics={
            "val:acc": "val:acc=([0-9.a-z]+)",
            "loss": "loss=([0-9.e-]+|inf)",
            "maybe": "maybe=([0-9]+)?",
            "no group": "epoch=[0-9]+",
            "last": "last=([0-9]+)",
            "never": "never=([0-9]+)",
        },
    )
    metric = get("Steps.Train.FinalMetricDataList['val:acc'].Value")
    gate = condition("Gate", [compare("GreaterThanOrEqualTo", metric, 0.75)], [], [])
    report = lab.run(step, gate)
    values = {found["MetricName"]: found["Value"] for found in report.properties("Train")["FinalMetricDataList"]}
    assert values == {"val:acc": 0.75, "loss": 0.001, "last": 7.0}
    assert report.step("Gate")["outcome"] == "True"


def test_a_flood_without_lines_holds_no_metric_up(lab: Lab) -> None:
    code = "import sys; [sys.stdout.write('x' * 65536) for _ in range(80)]; print(' loss=0.5')"
    report = lab.run(lab.training("Train", code, metrics={"loss": ".*loss=([0-9.]+)"}))
    assert [found["Value"] for found in report.properties("Train")["FinalMetricDataList"]] == [0.5]
    assert report.step("Train")["seconds"] < 60


def test_artifacts_are_packed_without_a_directory_of_their_own(lab: Lab) -> None:
    code = """
        import os
        os.makedirs(os.environ["SM_MODEL_DIR"] + "/code")
        open(os.environ["SM_MODEL_DIR"] + "/code/serve.py", "w").write("x")
        open(os.environ["SM_MODEL_DIR"] + "/m.bin", "w").write("m")
        open(os.environ["SM_OUTPUT_DATA_DIR"] + "/curve.txt", "w").write("c")
    """
    packed = lab.training("Packed", code)
    plain = lab.training("Plain", code)
    plain["Arguments"]["OutputDataConfig"] = {"S3OutputPath": "s3://bucket/plain/", "CompressionType": "NONE"}
    empty = lab.training("Empty", "")
    report = lab.run(packed, plain, empty)
    uri = report.properties("Packed")["ModelArtifacts"]["S3ModelArtifacts"]
    assert uri == f"s3://bucket/models/{report.record('Packed')['Job']}/output/model.tar.gz"
    assert lines_of(lab, uri) == ["code/serve.py", "m.bin"]
    assert lines_of(lab, uri.replace("model.tar.gz", "output.tar.gz")) == ["curve.txt"]
    uri = report.properties("Plain")["ModelArtifacts"]["S3ModelArtifacts"]
    assert uri == f"s3://bucket/plain/{report.record('Plain')['Job']}/output/model/"
    assert lab.get(f"{uri}code/serve.py") == "x"
    assert lines_of(lab, report.properties("Empty")["ModelArtifacts"]["S3ModelArtifacts"]) == []


def test_the_same_artifacts_give_the_same_bytes_and_only_what_shrinks_is_made_smaller(lab: Lab) -> None:
    code = """
        import random
        for name, content in (("weights", random.Random(0).randbytes(300_000)), ("text", b"x" * {count})):
            open(f"/opt/ml/model/{name}", "wb").write(content)
    """
    steps = [lab.training(name, code.replace("{count}", n)) for name, n in (("A", "9"), ("B", "9"), ("C", "3_000_000"))]
    report = lab.run(*steps)
    found = [
        lab.path(report.properties(name)["ModelArtifacts"]["S3ModelArtifacts"]).read_bytes() for name in ("A", "B", "C")
    ]
    assert found[0] == found[1]
    assert 300_000 < len(found[0]) < 320_000
    assert len(found[2]) < 400_000


def test_checkpoints_are_restored_and_kept(lab: Lab) -> None:
    lab.put("s3://bucket/ckpt/deep/count.txt", "1")
    code = """
        from pathlib import Path
        path = Path("/opt/ml/checkpoints/deep/count.txt")
        path.write_text(str(int(path.read_text()) + 1))
        raise SystemExit(int(path.read_text()) < 3)
    """
    more = {"CheckpointConfig": {"S3Uri": "s3://bucket/ckpt", "LocalPath": "/opt/ml/checkpoints"}}
    step = lab.training("Train", code, more=more)
    assert lab.run(step).code == 1
    assert lab.get("s3://bucket/ckpt/deep/count.txt") == "2"
    report = lab.run(step)
    assert (report.code, lab.get("s3://bucket/ckpt/deep/count.txt")) == (0, "3")


def test_checkpoints_are_kept_while_a_job_runs(lab: Lab) -> None:
    code = """
        import os, time
        from pathlib import Path
        folder = Path("/opt/ml/checkpoints")
        if (folder / "epoch").exists():
            print("goes on from", (folder / "epoch").read_text())
        else:
            for epoch in range(3):
                (folder / "epoch").write_text(str(epoch))
            time.sleep(60)
    """
    step = lab.training("Train", code, more={"CheckpointConfig": {"S3Uri": "s3://bucket/ckpt/"}})
    words = lab.command({"Version": "2020-12-01", "Steps": [step]})
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 20
        while not lab.path("s3://bucket/ckpt/epoch").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.kill()
    assert lab.run(step).log("Train") == "goes on from 2\n"


def test_why_a_training_job_failed_is_told(lab: Lab) -> None:
    said = "open('/opt/ml/output/failure', 'w').write('the true reason'); raise SystemExit('another')"
    slow = "import os, time; print('x', flush=True); open('/opt/ml/model/m', 'w').write('m'); time.sleep(60)"
    elsewhere = {"CheckpointConfig": {"S3Uri": "s3://bucket/ckpt", "LocalPath": "/tmp/ckpt"}}
    steps = [
        lab.training("Said", said),
        lab.training("Raised", "raise ValueError('lr must be positive')"),
        lab.training("Slow", slow, max_runtime_seconds=2),
        lab.training("Elsewhere", "", more=elsewhere),
        lab.drivers("NoScript", {"a.py": ""}, {"entry_script": "b.py"}),
        lab.drivers("Mpi", {"a.py": ""}, {"entry_script": "a.py"}, distributed={"mpi_additional_options": None}),
    ]
    report = lab.run(*steps)
    assert report.statuses == {
        "Said": "AlgorithmError: the true reason, exit code: 1",
        "Raised": "AlgorithmError: ValueError: lr must be positive, exit code: 1",
        "Slow": "ClientError: the job ran longer than MaxRuntimeInSeconds = 2 and was ended.",
        "Elsewhere": "ClientError: CheckpointConfig.LocalPath '/tmp/ckpt' is not below /opt/ml, which is all that a "
        "job has here.",
        "NoScript": "ClientError: The channel 'code' holds no entry script 'b.py', which sm_drivers/sourcecode.json "
        "names.",
        "Mpi": "ClientError: The job is distributed by MPI, which the local target does not run; accepted is Torchrun.",
    }
    assert report.record("Raised")["Metadata"]["TrainingJob"]["Arn"].endswith(report.record("Raised")["Job"])
    assert lines_of(lab, f"s3://bucket/models/{report.record('Slow')['Job']}/output/model.tar.gz") == ["m"]


def test_a_job_killed_from_outside_is_tried_again_as_its_policies_say(lab: Lab) -> None:
    code = """
        import os, time
        from pathlib import Path
        marker = Path(os.environ["OWN"])
        if not marker.exists():
            marker.write_text(str(os.getpid()))
            time.sleep(60)
    """
    policies = [{"ExceptionType": ["SageMaker.JOB_INTERNAL_ERROR"], "IntervalSeconds": 1, "BackoffRate": 1.0}]
    steps = [
        lab.training(name, code, environment={"OWN": str(lab.folder / name)}, RetryPolicies=retried)
        for name, retried in (("Retried", policies), ("Not", [{**policies[0], "ExceptionType": ["Step.THROTTLING"]}]))
    ]
    process = subprocess.Popen(
        lab.command({"Version": "2020-12-01", "Steps": steps}), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 20
    for name in ("Retried", "Not"):
        while not (lab.folder / name).exists() or not (lab.folder / name).read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(int((lab.folder / name).read_text()), signal.SIGKILL)
    output, _ = process.communicate(timeout=30)
    rows = {row["name"]: row["failure_reason"] for row in json.loads(output)["steps"]}
    assert rows == {
        "Retried": None,
        "Not": "InternalServerError: the job's process was killed from outside; its last line: no output",
    }


def test_names_of_the_job_reach_the_script(lab: Lab) -> None:
    name = join(":", get("Execution.TrainingJobName"), get("Execution.PipelineName"))
    report = lab.run(lab.training("Train", "import sys; print(sys.argv[-1])", {"z": name}))
    assert report.log("Train") == f"{report.record('Train')['Job']}:lab\n"

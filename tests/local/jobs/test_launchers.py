"""How training scripts are started: the SDK's own drivers, the images' toolkit, own entry points, several hosts."""

import json
import os
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from tests.local.lab import Lab, Report, get, join, parameter
from tests.local.sandbox.test_pip import wheel

DUMP = """
    import json, os, sys
    print(json.dumps({"argv": sys.argv, "cwd": os.getcwd(), "env": dict(os.environ),
                      "hyperparameters": json.load(open("/opt/ml/input/config/hyperparameters.json")),
                      "inputs": json.load(open("/opt/ml/input/config/inputdataconfig.json")),
                      "resources": json.load(open("/opt/ml/input/config/resourceconfig.json"))}))
"""
GROUP = {"instance_group_name": "homogeneousCluster", "instance_type": "ml.m5.large", "hosts": ["algo-1"]}
RESOURCES = {
    "current_host": "algo-1",
    "current_instance_type": "ml.m5.large",
    "current_group_name": "homogeneousCluster",
    "hosts": ["algo-1"],
    "instance_groups": [GROUP],
    "network_interface_name": "lo",
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
    "SM_NETWORK_INTERFACE_NAME": "lo",
    "SM_NUM_CPUS": str(os.cpu_count()),
    "SM_NUM_NEURONS": "0",
}
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def lines_with(log: str, word: str) -> list[str]:
    """The lines of a log that begin with a word."""
    return sorted(line for line in log.splitlines() if line.startswith(word))


def printed(report: Any, name: str) -> Any:
    """The JSON object that a script has printed in a line of its own."""
    return json.loads(next(line for line in report.log(name).splitlines() if line.startswith('{"argv"')))


def test_the_drivers_of_the_sdk_start_a_script(lab: Lab) -> None:
    lab.put("s3://bucket/data/a.txt", "A")
    values = {"lr": "0.1", "epochs": get("Parameters.Epochs"), "name": "res net", "on": "true", "some-thing": '{"a":1}'}
    step = lab.drivers(
        "Train",
        {"train.py": DUMP, "helper.py": ""},
        {"entry_script": "train.py"},
        values,
        channels={"data": "s3://bucket/data"},
        environment={"OWN": get("Parameters.Epochs")},
    )
    shell = lab.drivers(
        "Shell", {"run.sh": '#!/bin/bash\necho "$# $2 $SM_HP_A"'}, {"entry_script": "run.sh"}, {"a": "x y"}
    )
    command = lab.drivers(
        "Command",
        {"tool.py": "import json, os, sys; print(sys.argv[1:], json.loads(os.environ['SM_HPS']))"},
        {"command": "cd . && python tool.py $SM_HP_LR", "args": ["a b", "$HOME", 3], "entry_script": "ignored.py"},
        {"lr": "0.1"},
    )
    lab.archive("s3://bucket/Packed/code/src.tar.gz", {"train.py": "import lib", "lib.py": "print('from the archive')"})
    packed = lab.drivers("Packed", {}, {"entry_script": "train.py", "source_dir": "s3://elsewhere/src.tar.gz"})
    report = lab.run(step, shell, command, packed, parameters=[parameter("Epochs", "Integer", 3)])
    assert set(report.statuses.values()) == {"Succeeded"}
    assert "2 x y x y" in report.log("Shell").splitlines()
    assert "['0.1', 'a b', '$HOME', '3'] {'lr': 0.1}" in report.log("Command").splitlines()
    assert "from the archive" in report.log("Packed").splitlines()
    found, job = printed(report, "Train"), report.record("Train")["Job"]
    flags = ["--lr", "0.1", "--epochs", "3", "--name", "res net", "--on", "true", "--some-thing", '{"a": 1}']
    assert (found["argv"], found["cwd"]) == (["train.py", *flags], "/opt/ml/input/data/code")
    assert found["resources"] == RESOURCES
    assert found["inputs"] == dict.fromkeys(["data", "code", "sm_drivers"], CHANNEL)
    assert found["hyperparameters"]["epochs"] == "3"
    expected = {
        **FOLDERS,
        "OWN": "3",
        "TRAINING_JOB_NAME": job,
        "TRAINING_JOB_ARN": f"arn:aws:sagemaker:us-east-1:000000000000:training-job/{job}",
        "SM_MASTER_ADDR": "algo-1",
        "SM_HOSTS": '["algo-1"]',
        "SM_CHANNELS": '["data", "code", "sm_drivers"]',
        "SM_CHANNEL_DATA": "/opt/ml/input/data/data",
        "SM_HP_SOME_THING": '{"a": 1}',
        "SM_ENTRY_SCRIPT": "train.py",
    }
    assert expected.items() <= found["env"].items()


def test_the_toolkit_gives_a_script_what_it_gives_it_on_sagemaker(lab: Lab) -> None:
    lab.put("s3://bucket/data/a.txt", "A")
    values = {"batch-size": "32", "k": "1", "flag": "True", "on": "true", "cfg": '{"b": 2, "a": 1}', "none": "null"}
    step = lab.training("Train", DUMP, values, channels={"train": "s3://bucket/data"}, environment={"OWN": True})
    report = lab.run(step)
    assert report.statuses == {"Train": "Succeeded"}
    found = report.printed("Train")
    arguments = ["--batch-size", "32", "--cfg", "a=1,b=2", "--flag", "True", "-k", "1", "--none", "", "--on", "True"]
    assert (found["argv"], found["cwd"]) == (["train.py", *arguments], "/opt/ml/code")
    expected = {
        **FOLDERS,
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
    assert expected.items() <= found["env"].items()
    assert not [name for name in found["env"] if name.startswith(("SM_MASTER", "SM_SOURCE_DIR"))]


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
    shell = lab.training("Shell", "", {"a": "x y"})
    uri = lab.archive("s3://bucket/code/shell.tar.gz", {"run.sh": '#!/bin/bash\necho "$# $2 $SM_HP_A"\n'})
    shell["Arguments"]["HyperParameters"] |= {"sagemaker_program": "run.sh", "sagemaker_submit_directory": uri}
    report = lab.run(*steps, shell)
    assert [report.log(name) for name in ("Folder", "Packed", "Single", "Shell")] == [
        "/opt/ml/code ['lib.py', 'train.py']\n",
        "/opt/ml/code ['lib.py', 'train.py']\n",
        "/opt/ml/code ['train.py']\n",
        "2 x y x y\n",
    ]


def test_an_own_entry_point_runs_as_in_a_bare_container(lab: Lab) -> None:
    step = lab.training("Train", "")
    step["Arguments"]["HyperParameters"] = {
        "n": 3,
        "z": join(":", get("Execution.TrainingJobName"), get("Execution.PipelineName")),
    }
    step["Arguments"]["AlgorithmSpecification"] |= {
        "ContainerEntrypoint": ["bash", "-c"],
        "ContainerArguments": ['echo "$PWD $SM_MODEL_DIR $TRAINING_JOB_NAME"; cat input/config/hyperparameters.json'],
    }
    report = lab.run(step)
    job = report.record("Train")["Job"]
    assert report.log("Train") == f'/opt/ml  {job}\n{{"n": "3", "z": "{job}:lab"}}'


def test_torchrun_starts_as_many_processes_as_asked(lab: Lab) -> None:
    before = torchrun_leftovers()
    said = "RANK {os.environ['RANK']} {os.environ['WORLD_SIZE']} {sys.argv[1:]}"
    code = f'import os, sys; sys.stdout.write(f"{said}\\n")'  # at once, as two processes write
    steps = [
        lab.drivers(
            name,
            {"train.py": code},
            {"entry_script": "train.py"},
            {"lr": "0.1"},
            distributed={"process_count_per_node": 2, "smp": None},
            environment=ONE_THREAD,
        )
        for name in ("A", "B")  # at once: each has a port of its own
    ]
    report = lab.run(*steps)
    assert report.statuses == {"A": "Succeeded", "B": "Succeeded"}
    for name in "AB":
        ranks = ["RANK 0 2 ['--lr', '0.1']", "RANK 1 2 ['--lr', '0.1']"]
        assert lines_with(report.log(name), "RANK") == ranks
    assert torchrun_leftovers() <= before


def test_mpi_is_refused_by_name(lab: Lab) -> None:
    step = lab.drivers("Mpi", {"a.py": ""}, {"entry_script": "a.py"}, distributed={"mpi_additional_options": None})
    report = lab.run(step)
    assert (report.code, report.stdout) == (2, "")
    assert report.stderr.startswith("Step 'Mpi' is distributed by MPI")


def torchrun_leftovers() -> set[Path]:
    """Folders that torchrun makes for its logs where it is not told another place."""
    return set(Path(tempfile.gettempdir()).glob("torchelastic_*"))


ALL_REDUCE = """
    import os, torch, torch.distributed as dist
    from pathlib import Path
    dist.init_process_group("gloo")
    total = torch.tensor([dist.get_rank() + 1.0])
    dist.all_reduce(total)
    host = os.environ["SM_CURRENT_HOST"]
    shard = sorted(p.name for p in Path("/opt/ml/input/data/shared").iterdir())
    if dist.get_rank() == 0:
        print("SUM", dist.get_world_size(), total.item(), "sum=3", flush=True)
    for folder, text in ((os.environ["SM_MODEL_DIR"], host), (os.environ["SM_OUTPUT_DATA_DIR"], str(shard))):
        Path(folder, host).write_text(text)
        Path(folder, "common").write_text(host)
    dist.barrier()
    dist.destroy_process_group()
"""


def test_hosts_train_together_and_their_artifacts_are_merged(lab: Lab) -> None:
    for number in range(3):
        lab.put(f"s3://bucket/shared/{number}", "x")
    step = lab.drivers(
        "Train",
        {"train.py": ALL_REDUCE},
        {"entry_script": "train.py"},
        distributed={"process_count_per_node": 1},
        channels={"shared": "s3://bucket/shared"},
        environment=ONE_THREAD,
        metrics={"sum": "sum=([0-9]+)"},
    )
    step["Arguments"]["InputDataConfig"][0]["DataSource"]["S3DataSource"]["S3DataDistributionType"] = "ShardedByS3Key"
    step["Arguments"]["ResourceConfig"]["InstanceCount"] = 2
    report = lab.run(step)
    assert report.statuses == {"Train": "Succeeded"}
    assert lines_with(report.log("Train"), "SUM") == ["SUM 2 3.0 sum=3"]
    assert report.properties("Train")["FinalMetricDataList"][0]["Value"] == 3
    model = report.properties("Train")["ModelArtifacts"]["S3ModelArtifacts"]
    shares = {"algo-1": "['0', '2']", "algo-2": "['1']", "common": "algo-1"}
    for uri, expected in (
        (model, {"algo-1": "algo-1", "algo-2": "algo-2"}),
        (model.replace("model.", "output."), shares),
    ):
        with tarfile.open(lab.path(uri)) as archive:
            files = {name: archive.extractfile(name).read().decode() for name in archive.getnames()}  # type: ignore[union-attr]
        assert files == {"common": "algo-1", **expected}


def test_hosts_know_each_other_and_one_that_fails_ends_the_job(lab: Lab) -> None:
    code = """
        import json, os, socket, sys, time
        hosts = json.loads(os.environ["SM_HOSTS"])
        me = os.environ["SM_CURRENT_HOST"]
        print(json.dumps([me, hosts, len({socket.gethostbyname(host) for host in hosts}),
                          json.loads(os.environ["SM_RESOURCE_CONFIG"])["current_group_name"]]))
        if me == "algo-2":
            sys.exit("no room")
        time.sleep(60)
    """
    step = lab.training("Train", code)
    groups = [
        {"InstanceGroupName": n, "InstanceType": "ml.m5.large", "InstanceCount": c} for n, c in (("a", 1), ("b", 2))
    ]
    step["Arguments"]["ResourceConfig"] = {"InstanceGroups": groups, "VolumeSizeInGB": 30}
    report = lab.run(step)
    assert report.statuses == {"Train": "AlgorithmError: no room, exit code: 1"}
    folder = lab.home / "jobs" / report.record("Train")["Job"]
    told = json.loads((folder / "algo-2" / "log.txt").read_text().splitlines()[0])
    assert told == ["algo-2", ["algo-1", "algo-2", "algo-3"], 3, "b"]


def test_without_mounts_the_drivers_find_the_jobs_tree_and_several_hosts_are_refused(any_lab: Lab) -> None:
    code = "import os, sys; print('HERE', os.getcwd(), os.environ['SM_MODEL_DIR'], sys.argv[1:]); sys.exit(2 * ({}))"
    steps = [
        any_lab.drivers(name, {"t.py": code.format(text)}, {"entry_script": "t.py"}, {"a": 1})
        for name, text in (("Good", "0"), ("Bad", "1"), ("Hosts", "0"))
    ]
    steps[2]["Arguments"]["ResourceConfig"]["InstanceCount"] = 2
    report = any_lab.run(*steps, environment={"LOCAL_ISOLATION": "off"})
    tree = f"{any_lab.home}/jobs/{report.record('Good')['Job']}/ml"
    assert report.statuses["Good"] == "Succeeded"
    assert f"HERE {tree}/input/data/code {tree}/model ['--a', '1']" in report.log("Good")
    assert report.statuses["Bad"].endswith("exit code: 2")
    assert report.statuses["Hosts"].startswith("ClientError: The job has 2 hosts, which could not find each other")


def test_a_script_that_is_not_there_fails_the_job(lab: Lab) -> None:
    toolkit = lab.training("Toolkit", "")
    toolkit["Arguments"]["HyperParameters"]["sagemaker_program"] = "b.py"
    found = lab.run(toolkit, lab.drivers("Drivers", {"a.py": ""}, {"entry_script": "b.py"})).statuses
    assert found["Toolkit"].startswith("ClientError: sagemaker_submit_directory holds no 'b.py'")
    assert found["Drivers"].startswith("AlgorithmError") and "b.py" in found["Drivers"]


def test_requirements_of_source_code_are_installed_for_the_job_alone(lab: Lab) -> None:
    name, content = wheel("local-made", "1.0")
    files = {"t.py": "import local_made; print('FROM', local_made.__file__)", name: content}
    files["r.txt"] = "--no-index\n--find-links .\nlocal-made==1.0\nnumpy\n"
    step = lab.drivers("Train", files, {"entry_script": "t.py", "requirements": "r.txt"})
    report = lab.run(step)
    assert report.statuses == {"Train": "Succeeded"}
    [line] = lines_with(report.log("Train"), "FROM")
    assert str(lab.home) in line


def test_hosts_find_each_other_for_a_user_without_rights(lab: Lab) -> None:
    code = "import os, socket; print(os.getuid(), len({socket.gethostbyname(f'algo-{n}') for n in (1, 2)}))"
    train, prepare = lab.training("Train", code), lab.processing("Prepare", code)
    train["Arguments"]["ResourceConfig"]["InstanceCount"] = 2
    prepare["Arguments"]["ProcessingResources"]["ClusterConfig"]["InstanceCount"] = 2
    nobody = ["unshare", "--user", "--map-user=65534", "--map-group=65534"]
    words = [*nobody, *lab.command({"Version": "2020-12-01", "Steps": [train, prepare]})]
    done = subprocess.run(words, cwd=lab.folder, capture_output=True, text=True, check=False)
    report = Report(lab.home, done.returncode, done.stdout, done.stderr)
    assert report.statuses == {"Train": "Succeeded", "Prepare": "Succeeded"}
    assert [report.log(name) for name in ("Train", "Prepare")] == ["65534 2\n"] * 2

"""Processing jobs of several instances, and outputs that are uploaded while a job runs."""

import json
from typing import Any

from pipeline.definition.limits import not_honoured
from tests.local.lab import Lab

TELL = """
    import json
    from pathlib import Path
    me = json.load(open("/opt/ml/config/resourceconfig.json"))
    inputs = Path("/opt/ml/processing/input")
    seen = {kind: sorted(p.name for p in (inputs / kind).iterdir()) for kind in ("all", "shared")}
    output = Path("/opt/ml/processing/output/o")
    (output / f"{me['current_host']}.json").write_text(json.dumps({**me, **seen}))
    (output / "common").write_text("the same")
    print("I am", me["current_host"])
"""


def of_instances(step: dict[str, Any], count: int) -> dict[str, Any]:
    step["Arguments"]["ProcessingResources"]["ClusterConfig"]["InstanceCount"] = count
    return step


def test_each_instance_knows_itself_and_gets_its_share_and_all_outputs_merge(lab: Lab) -> None:
    for number in range(5):
        lab.put(f"s3://bucket/data/{number}.txt", "x")
    inputs = {"all": "s3://bucket/data", "shared": "s3://bucket/data"}
    step = of_instances(lab.processing("Prep", TELL, inputs=inputs, outputs=["o"]), 3)
    step["Arguments"]["ProcessingInputs"][1]["S3Input"]["S3DataDistributionType"] = "ShardedByS3Key"
    step["Arguments"]["ProcessingOutputConfig"]["Outputs"][0]["S3Output"]["S3Uri"] = "s3://bucket/o"
    report = lab.run(step)
    assert report.statuses == {"Prep": "Succeeded"}
    hosts = ["algo-1", "algo-2", "algo-3"]
    told = {host: json.loads(lab.get(f"s3://bucket/o/{host}.json")) for host in hosts}
    everything = [f"{number}.txt" for number in range(5)]
    for host in hosts:
        assert (told[host]["current_host"], told[host]["hosts"], told[host]["all"]) == (host, hosts, everything)
    assert [told[host]["shared"] for host in hosts] == [["0.txt", "3.txt"], ["1.txt", "4.txt"], ["2.txt"]]
    assert sorted(path.name for path in lab.path("s3://bucket/o").iterdir()) == [
        *(f"{h}.json" for h in hosts),
        "common",
    ]
    assert report.log("Prep") == "I am algo-1\n"
    folder = lab.home / "jobs" / report.record("Prep")["Job"]
    assert (folder / "algo-3" / "log.txt").read_text() == "I am algo-3\n"


def test_an_instance_that_fails_ends_the_others_and_the_job(lab: Lab) -> None:
    code = """
        import json, sys, time
        if json.load(open("/opt/ml/config/resourceconfig.json"))["current_host"] == "algo-2":
            sys.exit("no room")
        time.sleep(60)
    """
    report = lab.run(of_instances(lab.processing("Prep", code), 3))
    assert report.statuses == {"Prep": "AlgorithmError: no room, exit code: 1"}


def test_the_user_is_told_where_several_instances_are_not_honoured() -> None:
    cluster = {"ClusterConfig": {"InstanceCount": 3}}
    assert not_honoured({"Steps": [{"Arguments": {"ProcessingResources": cluster}}]}) == ""
    assert not_honoured({"Steps": [{"Arguments": {"ResourceConfig": {"InstanceCount": 2}}}]}) == ""
    assert not_honoured({"Steps": [{"Arguments": {"TransformResources": {"InstanceCount": 2}}}]}) == (
        "Local target: every job runs on this machine, in this Python environment; ignored are instance counts."
    )


def test_a_warm_start_is_honoured_and_not_said_to_be_ignored() -> None:
    assert not_honoured({"Steps": [{"Arguments": {"WarmStartConfig": {"WarmStartType": "TransferLearning"}}}]}) == ""


def test_a_continuous_output_is_uploaded_while_the_job_runs(lab: Lab) -> None:
    code = """
        import os, time
        from pathlib import Path
        Path("/opt/ml/processing/output/live/x").write_text("early")
        ends = time.monotonic() + 30
        while not Path(os.environ["UPLOADED"]).exists() and time.monotonic() < ends:
            time.sleep(0.05)
        print("seen" if time.monotonic() < ends else "not seen")
    """
    uploaded = str(lab.path("s3://bucket/live/x"))
    step = lab.processing("Prep", code, outputs=["live"], environment={"UPLOADED": uploaded})
    live = step["Arguments"]["ProcessingOutputConfig"]["Outputs"][0]["S3Output"]
    live.update(S3Uri="s3://bucket/live", S3UploadMode="Continuous")
    assert lab.run(step).log("Prep") == "seen\n"

"""Debug* and Profiler* fields of foreign definitions: scripts of SDK 2's time, which make smdebug's hook themselves."""

import json
import signal
import subprocess

import psutil
import pytest
from smdebug.trials import create_trial

from pipeline.local.sagemaker.session import local_session
from pipeline.local.store.state import State
from tests.local.lab import Json, Lab, compare, condition, fail, get, join
from tests.local.samples import wait_until

TRAINING = """
    import time
    import torch
    import smdebug.pytorch as smd
    net, loss_module = torch.nn.Sequential(torch.nn.Linear(4, 3)), torch.nn.CrossEntropyLoss()
    hook = smd.Hook.create_from_json_file()
    hook.register_module(net)
    hook.register_loss(loss_module)
    hook.set_mode(smd.modes.TRAIN)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for step in range({steps}):
        loss_module(net(torch.zeros(8, 4)), torch.arange(8) % 3).backward()
        optimizer.step()
        optimizer.zero_grad()
        time.sleep(0.1)
    print("trained", flush=True)
"""
IMAGES = "503895931360.dkr.ecr.us-east-1.amazonaws.com"
NO_PREFIX, OTHER_PREFIX = '{"name": "StopTraining"}', '[{"name": "StopTraining", "training_job_prefix": "Other-job"}]'


def rule(name: str, image: str = "sagemaker-debugger-rules:latest", **parameters: str) -> Json:
    invoked = {"rule_to_invoke": name, **parameters}
    return {"RuleConfigurationName": name, "RuleEvaluatorImage": f"{IMAGES}/{image}", "RuleParameters": invoked}


def fields(*rules: Json, profiler: tuple[str, ...] = (), **hook: str) -> Json:
    """What SDK 2 wrote of debugger_hook_config, profiler_config and rules."""
    every = {"CollectionParameters": {"save_interval": "1"}}
    collections = [{"CollectionName": name, **every} for name in ("losses", "gradients", "weights")]
    return {
        "DebugHookConfig": {"S3OutputPath": "s3://bucket/debug", "CollectionConfigurations": collections, **hook},
        "DebugRuleConfigurations": list(rules),
        "ProfilerConfig": {"S3OutputPath": "s3://bucket/profiles", "ProfilingIntervalInMilliseconds": 100},
        "ProfilerRuleConfigurations": [rule(name) for name in profiler],
    }


def jobs(lab: Lab) -> dict[str, Json]:
    """What DescribeTrainingJob answers of every job, by its step's name."""
    client = local_session(State(lab.home)).client("sagemaker")
    names = [summary["TrainingJobName"] for summary in client.list_training_jobs()["TrainingJobSummaries"]]
    return {name.split("-")[2]: client.describe_training_job(TrainingJobName=name) for name in names}


def statuses(job: Json) -> dict[str, str]:
    found = [*job.get("DebugRuleEvaluationStatuses", ()), *job.get("ProfilerRuleEvaluationStatuses", ())]
    return {each["RuleConfigurationName"]: each["RuleEvaluationStatus"] for each in found}


def evaluators(lab: Lab) -> list[psutil.Process]:
    """The processes that sample and judge."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "watch.collect.observer" in words and words[-1].startswith(str(lab.home)):
            found.append(process)
    return found


def test_tensors_and_profile_are_in_s3_and_rules_are_judged_by_their_names(lab: Lab) -> None:
    custom = rule("Mine", "sagemaker-debugger-rule-evaluator:latest", source_s3_uri="s3://bucket/rules/mine.py")
    asked = fields(rule("VanishingGradient"), rule("LossNotDecreasing"), rule("Unheard"), custom,
                   profiler=("MaxInitializationTime",))  # fmt: skip
    train = lab.training("D", TRAINING.format(steps=15), more=asked)
    status = get("Steps.D.DebugRuleEvaluationStatuses[0].RuleEvaluationStatus")
    gate = condition("Gate", [compare("Equals", status, "IssuesFound")], [fail("Faulty", join(" ", "It is", status))])
    report = lab.run(train, gate)
    assert report.statuses == {"D": "Succeeded", "Gate": "Succeeded", "Faulty": "It is IssuesFound"}
    job = jobs(lab)["D"]
    assert statuses(job) == {
        "VanishingGradient": "IssuesFound",
        "LossNotDecreasing": "NoIssuesFound",
        "Unheard": "Error",
        "Mine": "Error",
        "MaxInitializationTime": "NoIssuesFound",
    }
    fired, _, unheard, _ = job["DebugRuleEvaluationStatuses"]
    assert "Sequential_0.weight" in fired["StatusDetails"]
    assert "Unheard" in unheard["StatusDetails"]
    assert ":processing-job/" in fired["RuleEvaluationJobArn"]
    assert job["CreationTime"] < fired["LastModifiedTime"] <= job["TrainingEndTime"]
    assert job["ProfilingStatus"] == "Enabled"
    words = lab.command({"Version": "2020-12-01", "Steps": []})
    shown = subprocess.run(
        [*words[:2], "status", "--home", str(lab.home), "--pipeline", "lab", "--json"], capture_output=True
    )
    assert json.loads(shown.stdout)["rules"] == statuses(job)
    for name in ("Unheard", "Mine"):  # what is not judged is seen by who looks at the run
        assert f"{name}: Error: " in report.stderr
    trial = create_trial(str(lab.path(f"s3://bucket/debug/{job['TrainingJobName']}/debug-output")))
    assert len(trial.steps()) == 15
    assert trial.loaded_all_steps
    profile = lab.path(f"s3://bucket/profiles/{job['TrainingJobName']}/profiler-output")
    sampled = "".join(file.read_text() for file in profile.glob("system/incremental/*/*.algo-1.json"))
    assert sampled.count('"MemoryUsedPercent"') > 5
    assert '"process"' in sampled


def test_stop_training_stops_its_job_but_no_other(lab: Lab) -> None:
    code, actions = TRAINING.format(steps=60), {"Stops": NO_PREFIX, "Named": OTHER_PREFIX}
    asked = {name: fields(rule("VanishingGradient", action_json=action)) for name, action in actions.items()}
    report = lab.run(*(lab.training(name, code, more=more) for name, more in asked.items()))
    assert "Rule VanishingGradient has stopped the training job: " in report.statuses["Stops"]
    found = jobs(lab)
    assert [found[name]["TrainingJobStatus"] for name in actions] == ["Stopped", "Completed"]
    assert [statuses(found[name]) for name in actions] == [{"VanishingGradient": "IssuesFound"}] * 2
    assert "nothing is stopped, since training_job_prefix 'other-job' names none" in report.log("Named")


SLEEPS = "import time\nprint('begins', flush=True)\ntime.sleep({})\n"


def test_a_job_ends_as_it_would_whatever_becomes_of_its_evaluators(lab: Lab) -> None:
    works = lab.training("Works", SLEEPS.format(4), more=fields(rule("Overfit")))
    fails = lab.training("Fails", SLEEPS.format(2) + "raise SystemExit('lost its way')", more=fields(rule("Unheard")))
    words = lab.command({"Version": "2020-12-01", "Steps": [works, fails]})
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        wait_until(lambda: len(evaluators(lab)) == 2)
        for process in evaluators(lab):
            process.kill()
    found = jobs(lab)
    assert found["Works"]["TrainingJobStatus"] == "Completed"
    assert found["Fails"]["FailureReason"] == "AlgorithmError: lost its way, exit code: 1"
    assert [statuses(job) for job in (found["Works"], found["Fails"])] == [{"Overfit": "Error"}, {"Unheard": "Error"}]
    assert "ended with -9" in found["Works"]["DebugRuleEvaluationStatuses"][0]["StatusDetails"]


@pytest.mark.parametrize("killed", [False, True])
def test_evaluation_is_stopped_with_an_execution(lab: Lab, killed: bool) -> None:
    words = lab.command(
        {"Version": "2020-12-01", "Steps": [lab.training("D", SLEEPS.format(60), more=fields(rule("Overfit")))]}
    )
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: evaluators(lab))
        assert statuses(jobs(lab)["D"]) == {"Overfit": "InProgress"}
        runner = psutil.Process(evaluators(lab)[0].ppid())
        runner.send_signal(signal.SIGKILL if killed else signal.SIGTERM)
        process.wait(20)
    subprocess.run([*words[:2], "status", "--home", str(lab.home), "--pipeline", "lab"], capture_output=True)
    job = jobs(lab)["D"]
    assert statuses(job) == {"Overfit": "Stopped"}
    wait_until(lambda: not evaluators(lab), seconds=10)


def test_a_local_path_outside_of_the_job_is_refused(lab: Lab) -> None:
    report = lab.run(lab.training("D", "", more=fields(LocalPath="/etc/tensors")))
    assert "'/etc/tensors' is not below /opt/ml" in report.statuses["D"]

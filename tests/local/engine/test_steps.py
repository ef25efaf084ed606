"""Which steps run when, on which values, how it all ends; what is idempotent; what jobs and pipelines are called."""

import json
import re
import time

import pytest
from botocore.exceptions import ClientError

from pipeline.local.engine.execution import retry_wait
from pipeline.local.store.state import State
from tests.local.engine.conftest import CASES, Home
from tests.local.lab import ROLE, Json, Lab, compare, condition, get, output_uri
from tests.local.samples import run_cli


def expanded(lab: Lab, value: Json) -> Json:
    """An object of a case; one that has `code` is that Processing step, `null` names members of its request."""
    if "code" not in value:
        return value
    null = value.pop("null", [])
    step = lab.processing(**value | {"code": "\n".join(value["code"])})
    step["Arguments"] |= dict.fromkeys(null)
    return step


@pytest.mark.parametrize("case", json.loads((CASES / "runs.json").read_text()), ids=lambda case: case["does"])
def test_a_definition(lab: Lab, case: Json) -> None:
    for uri, text in case.get("objects", {}).items():
        lab.put(uri, text)
    definition = json.loads(json.dumps(case["definition"]), object_hook=lambda value: expanded(lab, value))
    report = lab.run_definition(definition, options=case.get("options", []))
    pipeline, _, execution = report.document["execution_arn"].partition("/execution/")
    assert report.document["status"] == case["status"]
    expected = {name: said.replace("<id>", execution) for name, said in case["steps"].items()}
    assert {name: expected.get(name, said) in said for name, said in report.statuses.items()} == dict.fromkeys(
        expected, True
    )
    assert case.get("parameters", {}).items() <= report.document["parameters"].items()
    assert all(report.record(name)["AttemptCount"] == count for name, count in case.get("attempts", {}).items())
    assert all(report.step(name)["outcome"] == outcome for name, outcome in case.get("outcomes", {}).items())
    if "log" in case:
        log = report.log("Print").replace(execution, "<id>").replace(pipeline, "<pipeline>")
        for name in expected:
            log = log.replace(report.record(name)["Job"].replace(execution, "<id>"), f"<job of {name}>")
        assert re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", "<start>", log) == case["log"]
    summary = run_cli("status", "--home", lab.home, "--pipeline", "lab").stdout
    assert case.get("shown", "") in summary
    if "retry" in case:
        done = run_cli("retry", "--home", lab.home, "--pipeline", "lab")
        assert (done.returncode, case["retry"] in done.stderr) == (1, True)
    if "shown_again" in case:
        assert report.document["reports"] == {"evaluation": None, "debugger": None, "profiler": None}
        summary += run_cli("run", "--definition", lab.folder / "lab.json", "--home", lab.home).stdout
        assert case["shown_again"] in summary
    assert not [word for word in case.get("not_shown", []) if word in summary]


@pytest.mark.parametrize("case", json.loads((CASES / "retries.json").read_text()), ids=lambda case: case["name"])
def test_the_first_policy_that_names_a_failure_says_how_often_and_when(case: Json) -> None:
    waits = [retry_wait(case["policies"], "Lost", used, time.monotonic()) for used in range(len(case["waits"]))]
    assert waits == case["waits"]
    assert retry_wait(case["policies"], None, 0, time.monotonic()) is None


@pytest.mark.parametrize("case", json.loads((CASES / "flows.json").read_text()), ids=lambda case: case["name"])
def test_triggers_decide_what_runs_and_an_unhandled_failure_fails_the_execution(home: Home, case: Json) -> None:
    branch = home.flow(case["not_taken"]) if "not_taken" in case else []
    home.define(*home.flow(case["flow"]), condition("Never", [compare("Equals", 1, 2)], branch))
    arn = home.start()
    assert home.ended(arn) == case["status"]
    assert sorted(home.ran) == case["ran"].split()
    reason = "Step failure: One or multiple steps failed." if case["status"] == "Failed" else None
    assert home.described(arn).get("FailureReason") == reason
    if reason is None:
        assert [name for name, found in home.statuses(arn).items() if found != "Succeeded"] == ["Bad"]
        with pytest.raises(ClientError, match="this one is CompletedWithFailures"):
            home.retry(arn)


def test_start_and_retry_limit_what_runs_at_once_and_retry_runs_what_failed_alone(home: Home) -> None:
    flow = "Good | Flaky? < Good | Then < Good | Handler < Flaky:Failed | C? < Then | D? < Then | E? < Then"
    home.define(*home.flow(flow))
    one, two = {"MaxParallelExecutionSteps": 1}, {"MaxParallelExecutionSteps": 2}
    arn = home.start(ParallelismConfiguration=one)
    assert (home.ended(arn), home.described(arn)["ParallelismConfiguration"]) == ("Failed", one)
    assert home.ran == ["Good", "Flaky", "Then", "Handler", "C"]  # the first unhandled failure starts nothing new
    home.go()
    assert home.retry(arn, ParallelismConfiguration=two) == "Succeeded"
    assert home.ran[5:] == ["Flaky", "C", "D", "E"]
    rows = home.steps(arn)
    assert list(rows) == ["Good", "Then", "Flaky", "C", "D", "E"]
    overlaps = [sum(r["StartTime"] <= row["StartTime"] < r["EndTime"] for r in rows.values()) for row in rows.values()]
    assert (max(overlaps), home.described(arn)["ParallelismConfiguration"]) == (2, two)


def test_200_nested_conditions_and_a_chain_of_200_steps_run(lab: Lab) -> None:
    step = lab.processing("Innermost", "")
    chain = []
    for number in range(200):
        step = condition(f"If{number}", [compare("Equals", number, number)], [step])
        waits = {"DependsOn": [f"C{number - 1}"] if number else []}
        chain.append(condition(f"C{number}", [compare("Equals", 1, 1)]) | waits)
    report = lab.run(step, *reversed(chain))
    assert report.code == 0, report.stderr
    assert (set(report.statuses.values()), len(report.statuses)) == ({"Succeeded"}, 401)


def select(home: Home, source: str | None, names: str) -> str:
    """Start a selective execution; its ARN."""
    config: Json = {"SelectedSteps": [{"StepName": name} for name in names.split()]}
    return home.start(SelectiveExecutionConfig=config | ({"SourcePipelineExecutionArn": source} if source else {}))


def test_selected_steps_run_alone_on_the_values_of_a_source(home: Home) -> None:
    steps = home.flow("Waits~ | First | Second < First | Third < Second | Bad! < Third | OnBad < Bad | Flaky? < Third")
    for step in steps:  # each reads the job names of those that it waits for
        names = step.pop("DependsOn")
        step["Arguments"]["Environment"] = {f"OF_{name}": get(f"Steps.{name}.ProcessingJobName") for name in names}
    home.define(*steps)
    source = select(home, None, "First Second Third Bad Flaky")
    assert home.ended(source) == "Failed"
    arn = select(home, source, "Second Third")
    assert (home.ended(arn), home.ran[5:]) == ("Succeeded", ["Second", "Third"])
    jobs = {name: step["Metadata"]["ProcessingJob"]["Arn"] for name, step in home.steps(arn).items()}
    assert list(jobs) == ["First", "Second", "Third"]
    assert home.steps(source)["First"]["Metadata"] == {"ProcessingJob": {"Arn": jobs["First"]}}
    second = home.sagemaker.describe_processing_job(ProcessingJobName=jobs["Second"].split("/")[1])
    assert second["Environment"]["OF_First"] == jobs["First"].split("/")[1]
    assert home.ended(select(home, arn, "Second")) == "Succeeded"  # whose own values came from elsewhere
    home.define(*home.flow("First"), name="other")
    other, running = home.start("other"), select(home, None, "Waits")
    for place, chosen, said in (
        (source, "First Third", "missing: Second"),
        (source, "Secnd", "Did you mean 'Second'"),
        (source, "OnBad", "values of Bad, which did not succeed"),
        (None, "Second", "values of First; name an execution"),
        (other, "Second", "an execution of pipeline 'other'"),
        (running, "Second", "is Executing; only an execution that has ended"),
        (f"{source}x", "Second", "Could not find pipeline execution"),
        (source, " ".join(f"S{n}" for n in range(51)), "at most 50 entries"),
    ):
        with pytest.raises(ClientError, match=re.escape(said)):
            select(home, place, chosen)
    flaky = select(home, source, "Flaky")
    assert home.ended(flaky) == "Failed"
    home.go()
    assert (home.retry(flaky), home.ran.count("Third")) == ("Succeeded", 2)
    assert home.statuses(flaky) == {"Third": "Succeeded", "Flaky": "Succeeded"}
    assert {home.ended(other), home.ended(running)} == {"Succeeded"}


def test_a_step_of_a_branch_runs_without_its_condition_and_a_condition_alone_runs_no_branch(home: Home) -> None:
    home.define(*home.flow("First"), condition("Gate", [compare("Equals", 1, 2)], home.flow("Yes"), home.flow("No")))
    expected = {"First": "First", "Yes": "Yes", "Gate": "Gate", "Gate Yes": "Gate", "Gate No": "Gate No"}
    for selected, ran in expected.items():
        arn = select(home, None, selected)
        assert (home.ended(arn), set(home.steps(arn))) == ("Succeeded", set(ran.split()))


def test_run_takes_from_and_only_and_finds_the_execution_that_has_what_is_needed(lab: Lab) -> None:
    first = lab.processing("First", "open('/opt/ml/processing/output/o/a', 'w').write('made')", outputs=["o"])
    code = "print(open('/opt/ml/processing/input/i/a').read())"
    second = lab.processing("Second", code, inputs={"i": output_uri("First", "o")})
    steps = [first, second, lab.processing("Third", "", DependsOn=["Second"])]

    def refused(said: str, *options: str) -> None:
        report = lab.run(*steps, options=options)
        assert (report.code, report.stdout) == (2, "")
        assert said in report.stderr

    refused("No execution of pipeline 'lab' has what the chosen steps read, the values of First", "--only", "Second")
    whole = lab.run(*steps)
    assert lab.run(*steps, options=["--only", "Third"]).statuses == {"Third": "Succeeded"}
    later = lab.run(*steps, options=["--from", "Second"])  # not of the newest, which has run Third alone
    assert later.statuses == dict.fromkeys(["First", "Second", "Third"], "Succeeded")
    assert later.log("Second") == "made\n"
    assert [row["source_execution"] for row in later.document["steps"]] == [whole.document["execution_arn"], None, None]
    refused("No step has the name 'Secnd'", "--from", "Secnd")
    refused("Did you mean 'First'?", "--only", "Fist,Third")
    refused("missing: Second", "--only", "First,Third")
    refused("give one of them", "--only", "First", "--from", "First")
    newest = run_cli("status", "--home", lab.home, "--pipeline", "lab").stdout  # what was refused has started nothing
    assert re.search(r"First .* of an earlier execution", newest)


def test_a_client_request_token_makes_a_request_idempotent(home: Home) -> None:
    home.define(*home.flow("Waits~"))
    token, other = "t" * 32, "o" * 32
    arn = home.start(ClientRequestToken=token)
    assert home.start(ClientRequestToken=token) == arn
    assert len(home.sagemaker.list_pipeline_executions(PipelineName="pipe")["PipelineExecutionSummaries"]) == 1
    with pytest.raises(ClientError, match="given before, with another request") as caught:
        home.start(ClientRequestToken=token, PipelineExecutionDisplayName="else")
    assert caught.value.response["Error"]["Code"] == "ConflictException"
    for _ in range(2):
        home.stop(arn, ClientRequestToken=token)
    assert home.ended(arn) == "Stopped"
    for _ in range(2):
        retried = home.sagemaker.retry_pipeline_execution(PipelineExecutionArn=arn, ClientRequestToken=token)
        assert retried["PipelineExecutionArn"] == arn
    home.stop(arn, ClientRequestToken=other)
    assert home.ended(arn) == "Stopped"
    home.go()
    again = home.start(ClientRequestToken=other)
    assert (again != arn, home.ended(again)) == (True, "Succeeded")


def test_jobs_are_named_as_the_service_names_them_and_by_a_custom_prefix(lab: Lab) -> None:
    long, prefix = "_with-a-name-of-more-characters-than-a-job-may-have-of-it", f"own-{'x' * 40}"
    write = "open('/opt/ml/model/m', 'w'); print('score=1')"
    container = {"Image": "img", "ModelDataUrl": get("Steps.Train.ModelArtifacts.S3ModelArtifacts")}
    model = {"PrimaryContainer": container, "ExecutionRoleArn": ROLE}
    ranges = {"CategoricalParameterRanges": [{"Name": "any", "Values": ["a"]}]}
    steps = {
        "ProcessingJob": lab.processing(f"Prep{long}", ""),
        "TrainingJob": lab.training("Train", write),
        "HyperParameterTuningJob": lab.tuning(f"Tune{long}", write, ranges, jobs=1),  # 32 characters of room, not 63
        "Model": {"Name": f"Model{long}", "Type": "Model", "Arguments": model},
    }
    plain = [f"pipelines-ID-{name}-R" for name in ("Prep-with-a-name-of", "Train", "Model-with-a-name-of")]
    plain.insert(2, "ID-Tune-wit-R")
    custom = [f"{prefix[:21]}-R" if "Tuning" in kind else f"{prefix[:39]}-ID-R" for kind in steps]
    seen = set()
    for expected in (plain, plain, custom, custom):
        for kind, step in steps.items():
            step["Arguments"] |= {f"{kind}Name": prefix} if expected is custom else {}
        report = lab.run(*steps.values())
        execution = report.document["execution_arn"].rpartition("/")[2]
        metadata = [report.record(step["Name"])["Metadata"] for step in steps.values()]
        names = [value["Arn"].rpartition("/")[2] for found in metadata for value in found.values()]
        assert [re.sub(r"\w{10}$", "R", name.replace(execution, "ID")) for name in names] == expected
        for kind, name in zip(steps, names, strict=True):
            job = State(lab.home).get(kind, name) or {}
            assert (job[f"{kind}Name"], job.get(f"{kind}Status", "Completed")) == (name, "Completed")
        seen.update(names)
    assert len(seen) == 4 * len(steps)


def test_unrelated_definitions_do_not_share_a_pipeline_and_every_name_is_said(lab: Lab) -> None:
    for case in json.loads((CASES / "names.json").read_text()):
        path = lab.folder / case["file"]
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"Version": "2020-12-01", "Steps": [], **case.get("members", {})}))
        words = ["run", "--json", "--definition", path, "--home", lab.home]
        done = run_cli(*words, *case.get("options", []))
        assert done.returncode == 0, done.stderr
        [name] = re.findall(r"Pipeline (\S+) (?:created|updated|unchanged)", done.stderr)
        assert json.loads(done.stdout)["execution_arn"].split("/")[1] == name
        assert re.fullmatch(case["pipeline"], name)
        assert run_cli("status", "--home", lab.home, "--pipeline", name).returncode == 0
    refused = run_cli(*words, "--name", "no_name!")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "PipelineName must be" in refused.stderr

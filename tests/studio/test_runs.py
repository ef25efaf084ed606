"""The pages of executions: the list, one of them, the form that starts one, two side by side; on small pipelines."""

import html
import json
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from pipeline.local import session
from tests.local.lab import compare, condition, fail, get, parameter
from tests.local.samples import definition, python_step, wait_until
from tests.studio.conftest import Studio

HOSTILE = "<script>alert(1)</script>"
ACCOUNT = "arn:aws:sagemaker:us-east-1:000000000000"
PARAMETERS = [
    parameter("Level", "Integer", 3),
    parameter("Share", "Float", 0.5),
    parameter("Loud", "Boolean", True),
    parameter("Size", "String", "small", EnumValues=["small", "large"]),
    parameter("Note", "String", HOSTILE),
]
PRINTS = "print('counted <b>5</b>')"


@pytest.fixture(scope="module")
def tiny(studio: Studio) -> str:
    """A pipeline that counts, and says whether that is much."""
    much = condition(
        "Much",
        [compare("GreaterThan", get("Parameters.Level"), 5)],
        [python_step("Cheer", PRINTS)],
        [fail("Sigh", "few")],
    )
    cached = {"CacheConfig": {"Enabled": True, "ExpireAfter": "P1D"}}
    steps = [python_step("Count", PRINTS, **cached), {**much, "DependsOn": ["Count"]}]
    make(studio, "tiny", *steps, Parameters=PARAMETERS)
    return "tiny"


def make(studio: Studio, name: str, *steps: dict[str, Any], **members: Any) -> None:
    """Create a pipeline."""
    text = json.dumps(definition(*steps, **members))
    role = "arn:aws:iam::000000000000:role/any"
    session(studio.home).client("sagemaker").create_pipeline(
        PipelineName=name, PipelineDefinition=text, RoleArn=role, ClientRequestToken="t" * 32
    )


def words(text: str) -> str:
    """What a person reads of a page."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())


def started(studio: Studio, pipeline: str, **fields: Any) -> str:
    """Start by the form; return the address of the execution."""
    answer = studio.post(f"/start/{pipeline}", fields, allow_redirects=False)
    assert answer.status_code == 303, words(answer.text)
    return str(answer.headers["location"])


def ended(studio: Studio, address: str, query: str = "") -> str:
    """The page of an execution that has ended."""
    wait_until(lambda: "running for" not in studio.get(address).text)
    return studio.get(address + query).text


def record(studio: Studio, pipeline: str, number: int, **members: Any) -> str:
    """Put an execution that nobody has run into the records; return its ARN."""
    arn = f"{ACCOUNT}:pipeline/{pipeline}/execution/made{number:08}"
    times = {"CreationTime": 1e9 + number, "LastModifiedTime": 1e9 + number + 60}
    studio.state().add_execution(
        {"PipelineExecutionArn": arn, "PipelineArn": f"{ACCOUNT}:pipeline/{pipeline}", "PipelineName": pipeline,
         "PipelineExecutionStatus": "Succeeded", "Definition": definition(), "Parameters": {}, "Options": {},
         "ParallelismConfiguration": {}, **times, **members}
    )  # fmt: skip
    return arn


def page_of(arn: str) -> str:
    return "/executions/" + arn.partition(":pipeline/")[2].replace("/execution/", "/")


def test_without_an_execution_the_list_says_how_one_is_started(studio: Studio) -> None:
    assert "run_pipeline.py run" in studio.get("/executions").text


def test_the_form_has_a_field_for_each_type_and_keeps_what_was_typed_beside_what_is_wrong(
    studio: Studio, tiny: str
) -> None:
    form = studio.get(f"/start/{tiny}").text
    assert all(f"parameter.{each['Name']}" in form for each in PARAMETERS) and HOSTILE not in form
    assert {"small", "large", "true", "false"} <= set(re.findall(r"<option[^>]*>(\w+)</option>", form))
    typed = {"parameter.Level": "many", "parameter.Share": "nan", "parameter.Size": "huge", "parameter.Note": "kept"}
    refused = studio.post(f"/start/{tiny}", typed)
    said = words(refused.text)
    assert refused.status_code == 400 and 'value="many"' in refused.text and 'value="kept"' in refused.text
    assert "must be a whole number, but is 'many'" in said
    assert "must be one of 'small' and 'large', but is 'huge'" in said
    misnamed = studio.post(f"/start/{tiny}", {"PipelineExecutionDisplayName": "no spaces"})
    assert misnamed.status_code == 400 and 'value="no spaces"' in misnamed.text
    assert studio.get("/start/nothing").status_code == 404
    assert "made" not in studio.get("/executions").text


def test_an_execution_is_started_watched_looked_into_and_started_again_with_another_value(
    studio: Studio, tiny: str
) -> None:
    first = started(studio, tiny, **{"parameter.Level": "9", "PipelineExecutionDisplayName": "the-first"})
    page = ended(studio, first, "?step=Count")
    said = words(page)
    assert "Succeeded" in said and "the-first" in said and "Branch not taken" in said
    assert "counted <b>5</b>" in said and "no earlier execution has succeeded" in said
    assert all(f">{label}</text>" in page for label in ("true", "false"))
    assert "no step nowhere" in words(studio.get(f"{first}?step=nowhere").text)
    again = studio.get(f"/start/{tiny}?from={first.rpartition('/')[2]}").text
    assert 'value="9"' in again
    second = started(studio, tiny, **{"parameter.Level": "1"})
    said = words(ended(studio, second, "?step=Sigh"))
    assert "Failed" in said and "few" in said
    keys = [address.removeprefix("/executions/") for address in (second, first)]
    both = studio.get("/compare", params={"pair": keys}).text
    assert "Count" in words(both) and "reused" in words(both)
    assert "unchanged" in words(studio.get(f"{second}?step=Count").text)
    assert re.search(r"Level</th><td>9</td><td>1</td>", both)
    assert "equal" in both and "Definition Nothing." in words(both)
    listed = words(studio.get("/executions?pipeline=tiny&text=the-first").text)
    assert "the-first" in listed and keys[0].partition("/")[2] not in listed
    assert "1 are ticked" in words(studio.get("/compare", params={"pair": keys[0]}).text)
    fresh = studio.post(f"{first}/run-from", {"step": "Much"}, allow_redirects=False).headers["location"]
    assert "of an earlier execution" in words(ended(studio, fresh)) or "Not selected" in words(ended(studio, fresh))


def test_a_running_execution_is_followed_stopped_and_retried(studio: Studio) -> None:
    make(studio, "slow", python_step("Sleep", "import time; print('begun', flush=True); time.sleep(60)"))
    address = started(studio, "slow")
    wait_until(lambda: "begun" in studio.get(f"{address}/live?step=Sleep").text)
    live = studio.get(f"{address}/live")
    assert "data-since" in live.text and "data-ended" not in live.text
    known = {"If-None-Match": live.headers["etag"]}
    assert studio.get(f"{address}/live", headers=known).status_code == 304
    assert "the execution is Executing" not in words(studio.post(f"{address}/stop").text)
    assert "Stopped" in words(ended(studio, address))
    wait_until(lambda: "data-ended" in studio.get(f"{address}/live").text)
    studio.post(f"{address}/retry")
    wait_until(lambda: "running for" in studio.get(address).text)
    studio.post(f"{address}/stop")
    ended(studio, address)
    assert "Only an executing execution" in words(studio.post(f"{address}/stop").text)


def test_logs_are_of_the_executions_own_jobs_alone(studio: Studio, tiny: str) -> None:
    address = started(studio, tiny, **{"parameter.Level": "9"})
    ended(studio, address)
    (studio.home / "secret" / "log.txt").parent.mkdir()
    (studio.home / "secret" / "log.txt").write_text("hidden words")
    for query in ("step=../secret", "step=Count&trial=../secret", "step=Count&trial=/etc/hostname"):
        for part in ("", "/live"):
            answer = studio.get(f"{address}{part}?{query}")
            assert answer.ok and "hidden words" not in answer.text
    store = studio.home / "s3/bucket/data/a b"
    store.mkdir(parents=True)
    (store / "<img src=x>").write_text("inside")
    (store / "away").symlink_to(studio.home / "secret")
    listed = studio.get("/objects/bucket/data").text
    assert "a b/" in listed and "&lt;img src=x&gt;" in studio.get("/objects/bucket/data/a%20b/").text
    assert studio.get("/objects/bucket/data/a%20b/%3Cimg%20src=x%3E").text == "inside"
    assert studio.get("/objects/bucket/data/a%20b/away").status_code == 404
    for wrong in ("/executions/tiny/none", "/executions/none/none", "/compare?a=tiny/x&b=tiny/y", "/compare"):
        assert studio.get(wrong).status_code == 404
    assert studio.get("/executions?page=nonsense").status_code == 400
    assert studio.post(f"{address}/explode").status_code == 404


def hostile() -> dict[str, Any]:
    """Steps of names that no checked definition has, in conditions within conditions."""
    inner = python_step(HOSTILE, "pass")
    for depth in range(30):
        inner = condition(f"C{depth}", [compare("Equals", 1, 1)], [inner], [python_step(f"Else{depth}", "pass")])
    return definition(inner)


def wide() -> dict[str, Any]:
    """200 steps, each of which waits for some of those before."""
    before = {n: [f"S{n - 1}", f"S{n // 2}"] if n % 10 else [] for n in range(200)}
    return definition(*(python_step(f"S{n}", "pass", depends_on=before[n]) for n in before))


@pytest.mark.parametrize(("number", "make_definition"), [(1, hostile), (2, wide)])
def test_any_graph_is_drawn_each_step_once_and_none_upon_another(
    studio: Studio, number: int, make_definition: Callable[[], dict[str, Any]]
) -> None:
    page = studio.get(page_of(record(studio, "graphs", number, Definition=make_definition())))
    assert page.ok and HOSTILE not in page.text and page.elapsed.total_seconds() < 2
    corners = re.findall(r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', page.text)
    places = sorted((float(y), float(x)) for x, y, _, _ in corners)
    assert len(places) == len(set(places)) == (61 if number == 1 else 200)
    width = float(corners[0][2])
    for (y, x), (next_y, next_x) in pairwise(places):
        assert y != next_y or next_x >= x + width


def test_a_search_of_500_trials_is_a_table_and_a_plot_of_the_best(studio: Studio) -> None:
    state, name = studio.state(), "search-of-many"
    trials = [
        {"TrainingJobName": f"trial-{n:03}", "TrainingJobArn": f"{ACCOUNT}:training-job/trial-{n:03}",
         "TrainingJobStatus": "Completed", "CreationTime": n, "TrainingStartTime": n, "TrainingEndTime": n + 2.5,
         "TunedHyperParameters": {"lr": str(10 ** (-n / 100)), "kind": HOSTILE if n % 2 else "plain"},
         "FinalHyperParameterTuningJobObjectiveMetric": {"MetricName": "loss", "Value": abs(n - 123.0)}}
        for n in range(500)
    ]  # fmt: skip
    ranges = {
        "ContinuousParameterRanges": [{"Name": "lr", "MinValue": "1e-5", "MaxValue": "1", "ScalingType": "Logarithmic"}]
    }
    config = {"Strategy": "Random", "HyperParameterTuningJobObjective": {"Type": "Minimize", "MetricName": "loss"},
              "ResourceLimits": {"MaxParallelTrainingJobs": 1}, "ParameterRanges": ranges}  # fmt: skip
    job_arn = f"{ACCOUNT}:hyper-parameter-tuning-job/{name}"
    job = {"HyperParameterTuningJobName": name, "HyperParameterTuningJobArn": job_arn,
           "HyperParameterTuningJobConfig": config, "HyperParameterTuningJobStatus": "Completed", "CreationTime": 1.0,
           "Trials": trials, "BestTrainingJob": trials[123]}  # fmt: skip
    state.put("HyperParameterTuningJob", name, job)
    arn = record(studio, "searches", 1, Definition=definition({"Name": "Tune", "Type": "Tuning", "Arguments": {}}))
    step = {"StepName": "Tune", "StepStatus": "Succeeded", "StartTime": 1.0, "EndTime": 2.0}
    state.put_step(arn, {**step, "Metadata": {"TuningJob": {"Arn": job_arn}}})
    page = studio.get(page_of(arn)).text
    assert HOSTILE not in page and "lr (log)" in page
    lines = re.findall(r"<polyline[^>]*>", page)
    assert (len(lines), page.count("<tr><td data-value=")) == (300, 499)
    assert "winner" in lines[-1] and "200 are in the table only" in words(page)


def test_an_execution_whose_runner_died_is_shown_as_it_ended(studio: Studio) -> None:
    arn = record(
        studio, "dead", 1, PipelineExecutionStatus="Executing", Definition=definition(python_step("A", "pass"))
    )
    studio.state().put_step(arn, {"StepName": "A", "StepStatus": "Executing", "StartTime": 1e9, "Metadata": {}})
    said = words(studio.get(page_of(arn)).text)
    assert "Failed" in said and "Retry" in said and "running for" not in said


def evaluated(studio: Studio, number: int, evaluation: Any, **files: str) -> str:
    """An execution that has left an evaluation.json, on data of its own."""
    state, name = studio.state(), f"evaluate-{number}"
    for key, text in {**files, "evaluation.json": json.dumps(evaluation)}.items():
        file = studio.home / f"s3/bucket/evaluated/{number}/{key}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    output = {"OutputName": "evaluation", "S3Output": {"S3Uri": f"s3://bucket/evaluated/{number}"}}
    job = {"ProcessingJobName": name, "ProcessingJobArn": f"{ACCOUNT}:processing-job/{name}", "CreationTime": 1.0,
           "ProcessingJobStatus": "Completed", "ProcessingOutputConfig": {"Outputs": [output]}}  # fmt: skip
    state.put("ProcessingJob", name, job)
    given = {"InputDataUri": f"s3://bucket/evaluated/{number}"}
    arn = record(studio, "evaluated", number, Parameters=given, Definition=definition(python_step("E", "pass")))
    step = {"StepName": "E", "StepStatus": "Succeeded", "StartTime": 1.0, "EndTime": 2.0}
    state.put_step(arn, {**step, "Metadata": {"ProcessingJob": {"Arn": job["ProcessingJobArn"]}}})
    return page_of(arn).removeprefix("/executions/")


def test_recall_by_class_and_images_are_compared_and_odd_evaluations_are_left_out(studio: Studio) -> None:
    classes = [{HOSTILE: {"recall": recall}, "hat": {"recall": 1.0}} for recall in (0.5, 0.75)]
    figures = [{"multiclass_classification_metrics": {"per_class": each}} for each in classes]
    first = evaluated(studio, 1, figures[0], **{"a.png": "1", "b.png": "2"})
    second = evaluated(studio, 2, figures[1], **{"a.png": "1", "b.png": "3", "c.png": "4"})
    page = studio.get(f"/compare?a={first}&b={second}").text
    assert HOSTILE not in page
    assert f"{HOSTILE} 0.500 0.750" in words(page)
    assert "1 file added: c.png" in words(page) and "2 files changed: b.png" in words(page)
    odd: list[Any] = [
        [],
        {"multiclass_classification_metrics": []},
        {"multiclass_classification_metrics": {"per_class": 1, "accuracy": {"value": 1, "images": 3}}},
    ]
    for number, evaluation in enumerate(odd, start=3):
        other = evaluated(studio, number, evaluation)
        for path in (f"/compare?a={first}&b={other}", f"/executions/{other}", f"/executions/{other}?step=E"):
            assert studio.get(path).ok, (path, evaluation)
    assert studio.get("/executions?pipeline=evaluated").ok


def test_seconds_are_of_what_an_execution_has_run_itself(studio: Studio) -> None:
    arn, state = record(studio, "lent", 1), studio.state()
    lent = {"SelectiveExecutionResult": {"SourcePipelineExecutionArn": arn}}
    for name, time, more in (("A", 1.0, lent), ("B", 1e9, {})):
        times = {"StartTime": time, "EndTime": time + 42}
        state.put_step(arn, {"StepName": name, "StepStatus": "Succeeded", "Metadata": {}, **times, **more})
    assert "42 s" in words(studio.get("/executions?pipeline=lent").text)


def test_ten_thousand_executions_are_listed_page_by_page_within_200_ms(studio: Studio) -> None:
    state = studio.state()
    with state.transaction():
        for number in range(10_000):
            status = "Failed" if number % 100 == 0 else "Succeeded"
            arn = record_many(state, number, status)
            state.put_step(
                arn,
                {"StepName": "A", "StepStatus": status, "StartTime": number, "EndTime": number + 5.0, "Metadata": {}},
            )
    older = "/executions?pipeline=many"
    for _ in range(3):
        page = timed(studio, older)
        assert page.count('name="pair"') == 50 and "10000" in page.replace(",", "")
        older = html.unescape(re.findall(r'href="(/executions\?[^"]*)">Older', page)[0])
    assert timed(studio, "/executions?pipeline=many&status=Failed").count('name="pair"') == 50
    assert timed(studio, "/executions?text=many/execution/m00009999").count('name="pair"') == 1


def record_many(state: Any, number: int, status: str) -> str:
    arn = f"{ACCOUNT}:pipeline/many/execution/m{number:08}"
    names = {"PipelineExecutionArn": arn, "PipelineName": "many", "PipelineExecutionStatus": status}
    times = {"CreationTime": 1e9 + number, "LastModifiedTime": 1e9 + number}
    state.add_execution({**names, **times, "Definition": {}, "Parameters": {"InputDataUri": "s3://b/images"}})
    return arn


def timed(studio: Studio, path: str) -> str:
    """A page that came within 200 ms; of three requests the quickest, as other programs run meanwhile."""
    page = min((studio.get(path) for _ in range(3)), key=lambda each: each.elapsed)
    assert page.ok and page.elapsed.total_seconds() < 0.2, (path, page.elapsed)
    return page.text

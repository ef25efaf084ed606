"""Pipelines of `@step` functions, compiled by the SDK itself against the local session, and run unchanged."""

import subprocess
import sys

from tests.local.lab import ROOT, Lab, source

PIPELINE = """
    import sys
    from pathlib import Path
    sys.path.insert(0, {root!r})
    from sagemaker.core.workflow.conditions import ConditionGreaterThan
    from sagemaker.core.workflow.parameters import ParameterInteger
    from sagemaker.core.workflow.pipeline_context import PipelineSession
    from sagemaker.mlops.workflow.condition_step import ConditionStep
    from sagemaker.mlops.workflow.function_step import step
    from sagemaker.mlops.workflow.pipeline import Pipeline
    from pipeline.local.sagemaker.session import local_session
    from pipeline.local.store.state import State

    session = PipelineSession(boto_session=local_session(State(Path({home!r}))), default_bucket="bucket")
    job = dict(image_uri="image:1", instance_type="ml.m5.large", role="arn:aws:iam::123456789012:role/pipeline")
    count = ParameterInteger("Count", 4)

    @step(name="Double", **job)
    def double(number, others):
        print("doubling", number, others)
        return {{"value": 2 * number, "others": others}}

    @step(name="Reject", **job)
    def reject(found, other):
        raise ValueError(f"the total is {{found['value'] + other}}")

    class Odd(Exception):
        def __init__(self, text):
            super().__init__(text)
            self.unpicklable = sys.stdout

    @step(name="Odd", **job)
    def raise_odd(found):
        raise Odd(f"odd {{found['value']}}")

    doubled = double(count, [1, 2, 3])
    rejected = reject(doubled, doubled["others"][2])
    large = [ConditionGreaterThan(doubled["value"], 7)]
    gate = ConditionStep("Gate", conditions=large, if_steps=[rejected, raise_odd(doubled)], else_steps=[])
    made = Pipeline("functions", parameters=[count], steps=[gate], sagemaker_session=session)
    Path("functions.json").write_text(made.definition())
"""


def test_functions_run_and_hand_their_values_on_and_what_they_raise_is_the_reason(lab: Lab) -> None:
    program = lab.folder / "compile.py"
    program.write_text(source(PIPELINE).format(root=str(ROOT), home=str(lab.home)))
    settings = {"AWS_DEFAULT_REGION": "us-east-1", "SAGEMAKER_VALIDATE_ROLE": "false", "HOME": str(lab.folder)}
    words = [sys.executable, str(program)]
    done = subprocess.run(words, env=settings, cwd=lab.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = lab.run_definition((lab.folder / "functions.json").read_text())
    assert report.statuses == {
        "Double": "Succeeded",
        "Gate": "Succeeded",
        "Odd": "AlgorithmError: Odd('odd 8'), exit code: 1",
        "Reject": "AlgorithmError: ValueError('the total is 11'), exit code: 1",
    }
    assert "doubling 4 [1, 2, 3]" in report.log("Double")

"""Pipelines of the stock SDK with the other step types; each is judged by what it computed."""

import json
import time
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.local.sdk.conftest import IMAGE, ROLE, Outcome, Sdk, output, processing_input

SCORE = """
    import argparse, json, os
    parser = argparse.ArgumentParser()
    parser.add_argument("--point", type=float)
    told, _ = parser.parse_known_args()
    print(f"score={1 - (told.point - 3) ** 2};", flush=True)
    open(os.path.join(os.environ["SM_MODEL_DIR"], "x.json"), "w").write(json.dumps(told.point))
"""
TAKE = """
    import json, sys, tarfile
    with tarfile.open("/opt/ml/processing/model/model.tar.gz") as archive:
        x = json.load(archive.extractfile("x.json"))
    open("/opt/ml/processing/out/x.json", "w").write(json.dumps(x))
"""
MODEL = """
    import json, os
    def model_fn(model_dir):
        return json.load(open(os.path.join(model_dir, "factor.json")))
    def input_fn(body, content_type):
        return [float(value) for value in body.split(",")]
    def predict_fn(data, factor):
        return sum(data) * factor
    def output_fn(prediction, accept):
        return str(prediction)
"""


def trainer(sdk: Sdk, code: str, **more: Any) -> Any:
    """A ModelTrainer of one script."""
    from sagemaker.train import ModelTrainer
    from sagemaker.train.configs import Compute, SourceCode

    folder = f"code-{len(list(sdk.folder.glob('code-*')))}"
    sdk.script(f"{folder}/train.py", code)
    return ModelTrainer(
        training_image=IMAGE,
        role=ROLE,
        sagemaker_session=sdk.session,
        source_code=SourceCode(source_dir=str(sdk.folder / folder), entry_script="train.py"),
        compute=Compute(instance_type="ml.m5.large", instance_count=1),
        **more,
    )


def note(sdk: Sdk, name: str, text: str, **more: Any) -> Any:
    """A Processing step that writes a text to note.txt."""
    from sagemaker.mlops.workflow.steps import ProcessingStep

    code = f"import sys\nopen('/opt/ml/processing/out/note.txt', 'w').write({text!r} + ' '.join(sys.argv[1:]))\n"
    script = sdk.script(f"{name}.py", code)
    arguments = more.pop("arguments", None)
    run = sdk.processor().run(code=script, outputs=[output(name, "/opt/ml/processing/out")], arguments=arguments)
    return ProcessingStep(name=name, step_args=run, **more)


def test_the_best_of_a_search_is_taken_up_by_its_place_in_s3(sdk: Sdk) -> None:
    from sagemaker.core.parameter import CategoricalParameter
    from sagemaker.core.shapes import OutputDataConfig
    from sagemaker.mlops.workflow.steps import ProcessingStep, TuningStep
    from sagemaker.train.tuner import HyperparameterTuner

    places = OutputDataConfig(s3_output_path="s3://search/models")
    tuner = HyperparameterTuner(
        model_trainer=trainer(sdk, SCORE, output_data_config=places),
        objective_metric_name="score",
        metric_definitions=[{"Name": "score", "Regex": "score=([-0-9.]+);"}],
        hyperparameter_ranges={"point": CategoricalParameter(["1", "3", "7"])},
        strategy="Grid",
        max_jobs=3,
        max_parallel_jobs=3,
    )
    tune = TuningStep(name="Tune", step_args=tuner.tune(inputs=[]))
    best = tune.get_top_model_s3_uri(top_k=0, s3_bucket="search", prefix="models")
    take = ProcessingStep(
        name="Take",
        step_args=sdk.processor().run(
            code=sdk.script("take.py", TAKE),
            inputs=[processing_input("model", best, "/opt/ml/processing/model")],
            outputs=[output("taken", "/opt/ml/processing/out")],
        ),
    )
    run = sdk.run("search", [tune, take])
    assert run.statuses == {"Take": "Succeeded", "Tune": "Succeeded"}
    assert json.loads(run.output("Take", "x.json")) == 3.0
    assert run.job("Tune")["BestTrainingJob"]["FinalHyperParameterTuningJobObjectiveMetric"]["Value"] == 1.0


def test_a_function_made_by_the_sdk_decides_nested_conditions(sdk: Sdk) -> None:
    from sagemaker.core.lambda_helper import Lambda
    from sagemaker.core.workflow.conditions import ConditionEquals, ConditionGreaterThan, ConditionIn, ConditionNot
    from sagemaker.core.workflow.parameters import ParameterInteger
    from sagemaker.mlops.workflow.condition_step import ConditionStep
    from sagemaker.mlops.workflow.lambda_step import LambdaOutput, LambdaOutputTypeEnum, LambdaStep

    code = """
        import boto3, os
        def handler(event, context):
            boto3.client("s3").put_object(Bucket="made", Key="by/lambda", Body=str(event).encode())
            return {"twice": 2 * event["n"], "who": os.environ["WHO"], "big": event["n"] > 3}
    """
    n = ParameterInteger("N", 2)
    function = Lambda(
        function_name="twice",
        execution_role_arn=ROLE,
        script=sdk.script("twice.py", code),
        handler="twice.handler",
        environment={"Variables": {"WHO": "me"}},
        session=sdk.session,
    )
    types = {
        "twice": LambdaOutputTypeEnum.Integer, "who": LambdaOutputTypeEnum.String, "big": LambdaOutputTypeEnum.Boolean
    }  # fmt: skip
    outputs = [LambdaOutput(output_name=name, output_type=kind) for name, kind in types.items()]
    call = LambdaStep(name="Call", lambda_func=function, inputs={"n": n}, outputs=outputs)
    found = call.properties.Outputs
    inner = ConditionStep(
        name="Inner",
        conditions=[ConditionIn(found["who"], ["you", "me"]), ConditionNot(ConditionEquals(found["big"], False))],
        if_steps=[note(sdk, "Big", "big ", arguments=[found["twice"].to_string()])],
        else_steps=[note(sdk, "Small", "small ", arguments=[found["twice"].to_string()])],
    )
    outer = ConditionStep(
        name="Outer", conditions=[ConditionGreaterThan(found["twice"], 3)], if_steps=[inner], else_steps=[]
    )
    run = sdk.run("decisions", [call, outer], [n])
    assert run.output("Small", "note.txt") == "small 4"
    assert "Big" not in run.steps
    assert sdk.start(run.pipeline, N=5).output("Big", "note.txt") == "big 10"
    assert set(sdk.start(run.pipeline, N=1).steps) == {"Call", "Outer"}
    assert sdk.read("s3://made/by/lambda") == "{'n': 1}"
    function.delete()


def test_a_model_is_served_to_a_transform_job_and_by_an_endpoint(sdk: Sdk) -> None:
    from sagemaker.core.transformer import Transformer
    from sagemaker.mlops.workflow.endpoint_step import EndpointConfigStep, EndpointStep
    from sagemaker.mlops.workflow.model_step import ModelStep
    from sagemaker.mlops.workflow.steps import TrainingStep, TransformStep
    from sagemaker.serve.model_builder import ModelBuilder

    save = f"""
        import os
        folder = os.environ["SM_MODEL_DIR"]
        open(folder + "/factor.json", "w").write("10")
        os.mkdir(folder + "/code")
        open(folder + "/code/inference.py", "w").write({MODEL.replace("    ", "", 1)!r}.replace("\\n    ", "\\n"))
    """
    train = TrainingStep(name="Train", step_args=trainer(sdk, save).train())
    builder = ModelBuilder(
        s3_model_data_url=train.properties.ModelArtifacts.S3ModelArtifacts,
        image_uri=IMAGE,
        role_arn=ROLE,
        sagemaker_session=sdk.session,
        env_vars={"SAGEMAKER_PROGRAM": "inference.py", "SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/model/code"},
    )
    model = ModelStep(name="Model", step_args=builder.build())
    sdk.aws.client("s3").put_object(Bucket="numbers", Key="in/a.csv", Body=b"1,2\n3,4\n")
    transformer = Transformer(
        model_name=model.properties.ModelName,
        instance_count=1,
        instance_type="ml.m5.large",
        strategy="SingleRecord",
        assemble_with="Line",
        output_path="s3://numbers/out",
        sagemaker_session=sdk.session,
    )
    request = transformer.transform(
        data="s3://numbers/in", content_type="text/csv", split_type="Line", join_source="Input", output_filter="$[0,-1]"
    )
    transform = TransformStep(name="Transform", step_args=request)
    variant = {
        "VariantName": "AllTraffic",
        "ModelName": model.properties.ModelName,
        "InstanceType": "ml.m5.large",
        "InitialInstanceCount": 1,
    }
    config = sdk.session.create_endpoint_config(name="sums", production_variants=[variant])
    config_step = EndpointConfigStep(name="Config", step_args=config)
    endpoint = EndpointStep(
        name="Endpoint",
        step_args=sdk.session.create_endpoint(endpoint_name="sums", config_name="sums", wait=False),
        depends_on=[config_step],
    )
    run = sdk.run("served", [train, model, transform, config_step, endpoint])
    assert run.statuses == dict.fromkeys(["Config", "Endpoint", "Model", "Train", "Transform"], "Succeeded")
    assert sdk.read("s3://numbers/out/a.csv.out") == "1,30.0\n3,70.0\n"
    runtime = sdk.aws.client("sagemaker-runtime")
    answer = runtime.invoke_endpoint(EndpointName="sums", Body=b"5,6", ContentType="text/csv")
    assert answer["Body"].read() == b"110.0"
    sdk.aws.client("sagemaker").delete_endpoint(EndpointName="sums")


def test_what_torchrun_trains_is_created_and_registered_and_jobs_have_names_of_our_own(sdk: Sdk) -> None:
    from sagemaker.core.workflow.pipeline_definition_config import PipelineDefinitionConfig
    from sagemaker.mlops.workflow.model_step import ModelStep
    from sagemaker.mlops.workflow.pipeline import Pipeline
    from sagemaker.mlops.workflow.steps import ProcessingStep, TrainingStep
    from sagemaker.serve.model_builder import ModelBuilder
    from sagemaker.train.distributed import Torchrun

    reduce = """
        import os, torch, torch.distributed as dist
        dist.init_process_group("gloo")
        total = torch.tensor(float(dist.get_rank() + 1))
        dist.all_reduce(total)
        if dist.get_rank() == 0:
            open(os.environ["SM_MODEL_DIR"] + "/x.json", "w").write(str(total.item()))
        dist.destroy_process_group()
    """
    trained = trainer(sdk, reduce, distributed=Torchrun(process_count_per_node=2)).train()
    train = TrainingStep(name="Train", step_args=trained)
    data = train.properties.ModelArtifacts.S3ModelArtifacts
    who = {"image_uri": IMAGE, "role_arn": ROLE, "sagemaker_session": sdk.session}
    builder = ModelBuilder(s3_model_data_url=data, instance_type="ml.m5.large", **who)
    create = ModelStep(name="Create", step_args=builder.build())
    types = {"content_types": ["text/csv"], "response_types": ["text/csv"]}
    machines = {"inference_instances": ["ml.m5.large"], "transform_instances": ["ml.m5.large"]}
    registered = builder.register(model_package_group_name="reduced", **types, **machines)
    register = ModelStep(name="Register", step_args=registered)
    processor = sdk.processor()
    processor.base_job_name = "my-look"
    inputs = [processing_input("model", data, "/opt/ml/processing/model")]
    look = processor.run(
        code=sdk.script("look.py", TAKE), inputs=inputs, outputs=[output("x", "/opt/ml/processing/out")]
    )
    pipeline = Pipeline(
        name="named",
        steps=[train, create, register, ProcessingStep(name="Look", step_args=look)],
        sagemaker_session=sdk.session,
        pipeline_definition_config=PipelineDefinitionConfig(use_custom_job_prefix=True),
    )
    pipeline.upsert(role_arn=ROLE)
    run = sdk.start(pipeline)
    assert run.statuses == dict.fromkeys(["Create", "Look", "Register", "Train"], "Succeeded")
    assert json.loads(run.output("Look", "x.json")) == 3.0
    assert run.job("Train")["TrainingJobName"].startswith("pipelines-")  # the SDK drops a ModelTrainer's own name
    assert run.job("Look")["ProcessingJobName"].startswith("my-look-")
    client, archive = sdk.aws.client("sagemaker"), run.job("Train")["ModelArtifacts"]["S3ModelArtifacts"]
    model = client.describe_model(ModelName=run.steps["Create"]["Metadata"]["Model"]["Arn"].rpartition("/")[2])
    [container] = run.job("Register")["InferenceSpecification"]["Containers"]
    assert model["PrimaryContainer"]["ModelDataUrl"] == container["ModelDataUrl"] == archive


def test_a_framework_processor_brings_its_folder_and_its_requirements(sdk: Sdk) -> None:
    from sagemaker.core.processing import FrameworkProcessor
    from sagemaker.mlops.workflow.steps import ProcessingStep

    sdk.script("package/main.py", "from beside import VALUE\nopen('/opt/ml/processing/out/v.txt', 'w').write(VALUE)\n")
    sdk.script("package/beside.py", "import packaging\nVALUE = 'from beside'\n")
    sdk.script("package/requirements.txt", "packaging\n")
    processor = FrameworkProcessor(
        image_uri=IMAGE,
        role=ROLE,
        command=["python3"],
        instance_count=1,
        instance_type="ml.m5.large",
        sagemaker_session=sdk.session,
    )
    request = processor.run(
        code="main.py",
        source_dir=str(sdk.folder / "package"),
        requirements="requirements.txt",
        outputs=[output("values", "/opt/ml/processing/out")],
    )
    run = sdk.run("framework", [ProcessingStep(name="Process", step_args=request)])
    assert run.statuses == {"Process": "Succeeded"}
    assert run.output("Process", "v.txt") == "from beside"


def test_some_steps_are_run_again_with_the_values_of_an_earlier_execution(sdk: Sdk) -> None:
    from sagemaker.core.workflow.parameters import ParameterString
    from sagemaker.mlops.workflow.parallelism_config import ParallelismConfiguration
    from sagemaker.mlops.workflow.selective_execution_config import SelectiveExecutionConfig

    word = ParameterString("Word", "first")
    one = note(sdk, "One", "", arguments=[word])
    uri = one.properties.ProcessingOutputConfig.Outputs["One"].S3Output.S3Uri
    two = note(sdk, "Two", "", arguments=[uri, word])
    run = sdk.run("selected", [one, two], [word])
    place = run.job("One")["ProcessingOutputConfig"]["Outputs"][0]["S3Output"]["S3Uri"]
    assert run.output("Two", "note.txt") == f"{place} first"
    again = run.pipeline.start(
        parameters={"Word": "second"},
        selective_execution_config=SelectiveExecutionConfig(selected_steps=["Two"]),
        parallelism_config=ParallelismConfiguration(max_parallel_execution_steps=1).to_request(),
    )
    again.wait(delay=0.5)
    found = Outcome(sdk, run.pipeline, again, {step["StepName"]: step for step in again.list_steps()})
    assert found.output("Two", "note.txt") == f"{place} second"
    assert found.steps["One"]["SelectiveExecutionResult"]["SourcePipelineExecutionArn"] == run.execution.arn
    assert again.describe()["SelectiveExecutionConfig"]["SelectedSteps"] == [{"StepName": "Two"}]


def test_a_running_execution_is_stopped(sdk: Sdk) -> None:
    from sagemaker.mlops.workflow.pipeline import Pipeline
    from sagemaker.mlops.workflow.steps import ProcessingStep

    request = sdk.processor().run(code=sdk.script("sleep.py", "import time\ntime.sleep(300)\n"))
    pipeline = Pipeline(
        name="slow", steps=[ProcessingStep(name="Sleep", step_args=request)], sagemaker_session=sdk.session
    )
    pipeline.upsert(role_arn="some-role")
    assert pipeline.describe()["RoleArn"] == "arn:aws:iam::000000000000:role/some-role"
    execution = pipeline.start()
    while not execution.list_steps():
        time.sleep(0.1)
    execution.stop()
    while execution.describe()["PipelineExecutionStatus"] == "Stopping":
        time.sleep(0.1)
    assert execution.describe()["PipelineExecutionStatus"] == "Stopped"
    assert [step["StepStatus"] for step in execution.list_steps()] == ["Stopped"]
    pipeline.delete()


def test_functions_as_steps_return_their_values(sdk: Sdk) -> None:
    from sagemaker.mlops.workflow.function_step import step

    def add(a: int, b: int) -> int:
        return a + b

    job = {"image_uri": IMAGE, "instance_type": "ml.m5.large", "role": ROLE}
    total = step(add, name="Total", **job)(step(add, name="First", **job)(1, 2), 10)
    run = sdk.run("functions", [total])
    assert run.statuses == {"First": "Succeeded", "Total": "Succeeded"}
    assert (run.execution.result("First"), run.execution.result("Total")) == (3, 13)


def test_what_does_not_run_here_is_refused_by_name_before_anything_runs(sdk: Sdk) -> None:
    from sagemaker.core import image_uris
    from sagemaker.mlops.workflow.callback_step import CallbackOutput, CallbackOutputTypeEnum, CallbackStep
    from sagemaker.mlops.workflow.steps import TrainingStep
    from sagemaker.train import ModelTrainer
    from sagemaker.train.configs import Compute

    answer = CallbackOutput(output_name="answer", output_type=CallbackOutputTypeEnum.String)
    ask = CallbackStep(name="Ask", sqs_queue_url="https://sqs/queue", inputs={}, outputs=[answer])
    boosted = ModelTrainer(
        training_image=image_uris.retrieve("xgboost", "us-east-1", version="1.7-1", instance_type="ml.m5.large"),
        role=ROLE,
        sagemaker_session=sdk.session,
        compute=Compute(instance_type="ml.m5.large", instance_count=1),
    )
    boost = TrainingStep(name="Boost", step_args=boosted.train())
    for step, said in ((ask, "Callback"), (boost, "sagemaker-xgboost")):
        with pytest.raises(ClientError, match=said) as caught:
            sdk.run(f"refused-{step.name}", [note(sdk, "Before", ""), step])
        assert f"'{step.name}'" in str(caught.value)
    assert not sdk.aws.client("sagemaker").list_processing_jobs(NameContains="Before")["ProcessingJobSummaries"]

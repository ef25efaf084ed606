"""Pipelines of the stock SDK over the scripts of `code/`: one with every step type. Importing this takes seconds."""

from pathlib import Path
from typing import Any

from sagemaker.core import image_uris, shapes
from sagemaker.core.lambda_helper import Lambda
from sagemaker.core.parameter import CategoricalParameter
from sagemaker.core.processing import FrameworkProcessor, ScriptProcessor
from sagemaker.core.transformer import Transformer
from sagemaker.core.workflow import conditions
from sagemaker.core.workflow.execution_variables import ExecutionVariables
from sagemaker.core.workflow.functions import Join, JsonGet
from sagemaker.core.workflow.parameters import ParameterFloat, ParameterInteger, ParameterString
from sagemaker.core.workflow.pipeline_definition_config import PipelineDefinitionConfig
from sagemaker.core.workflow.properties import PropertyFile
from sagemaker.mlops.workflow.callback_step import CallbackOutput, CallbackOutputTypeEnum, CallbackStep
from sagemaker.mlops.workflow.condition_step import ConditionStep
from sagemaker.mlops.workflow.endpoint_step import EndpointConfigStep, EndpointStep
from sagemaker.mlops.workflow.fail_step import FailStep
from sagemaker.mlops.workflow.function_step import step
from sagemaker.mlops.workflow.lambda_step import LambdaOutput, LambdaOutputTypeEnum, LambdaStep
from sagemaker.mlops.workflow.model_step import ModelStep
from sagemaker.mlops.workflow.pipeline import Pipeline
from sagemaker.mlops.workflow.steps import CacheConfig, ProcessingStep, TrainingStep, TransformStep, TuningStep
from sagemaker.serve.model_builder import ModelBuilder
from sagemaker.train import ModelTrainer
from sagemaker.train.configs import Compute, InputData, SourceCode
from sagemaker.train.distributed import Torchrun
from sagemaker.train.tuner import HyperparameterTuner

from tests.local.sdk.conftest import ROLE, Sdk

CODE = Path(__file__).with_name("code")
IMAGE = "000000000000.dkr.ecr.us-east-1.amazonaws.com/any:1"
MACHINE = {"instance_type": "ml.m5.large", "instance_count": 1}
CACHE = CacheConfig(enable_caching=True, expire_after="P1D")


def processing(
    sdk: Sdk, name: str, script: str, inputs: Any = (), outputs: Any = (), arguments: Any = None, **more: Any
) -> Any:
    """A Processing step; inputs and outputs lie under their names."""
    processor = ScriptProcessor(
        image_uri=IMAGE, command=["python3"], role=ROLE, sagemaker_session=sdk.session, **MACHINE
    )
    processor.base_job_name = f"my-{name.lower()}"
    how = {"s3_data_type": "S3Prefix", "s3_input_mode": "File"}
    places = {k: {"s3_uri": uri, "local_path": f"/opt/ml/processing/{k}", **how} for k, uri in dict(inputs).items()}
    given = [
        shapes.ProcessingInput(input_name=k, s3_input=shapes.ProcessingS3Input(**place)) for k, place in places.items()
    ]
    made = [output(key) for key in outputs]
    request = processor.run(code=str(CODE / script), inputs=given, outputs=made, arguments=arguments)
    return ProcessingStep(name=name, step_args=request, **more)


def output(name: str) -> Any:
    """A ProcessingOutput of which each execution has its own."""
    uri = Join(on="/", values=["s3:/", "results", ExecutionVariables.PIPELINE_EXECUTION_ID, name])
    place = {"s3_uri": uri, "local_path": f"/opt/ml/processing/{name}", "s3_upload_mode": "EndOfJob"}
    return shapes.ProcessingOutput(output_name=name, s3_output=shapes.ProcessingS3Output(**place))


def trainer(sdk: Sdk, folder: str, **more: Any) -> Any:
    """A ModelTrainer of a folder."""
    source = SourceCode(source_dir=str(CODE / folder), entry_script="train.py")
    who = {"training_image": IMAGE, "role": ROLE, "sagemaker_session": sdk.session, "compute": Compute(**MACHINE)}
    return ModelTrainer(source_code=source, **who, **more)


def abalone(sdk: Sdk, seed: Any, limit: Any, source: Any, approval: Any) -> list[Any]:
    """The shape of AWS's first example: prepare, train, evaluate, and register or fail by a condition."""
    words = ["--seed", seed.to_string()]
    prepare = processing(sdk, "Prepare", "prepare.py", {"raw": source}, ["train", "test"], words, cache_config=CACHE)
    outputs = prepare.properties.ProcessingOutputConfig.Outputs
    channel = InputData(channel_name="train", data_source=outputs["train"].S3Output.S3Uri)
    ridge = trainer(sdk, "train", hyperparameters={"penalty": 0.001}, base_job_name="abalone")
    train = TrainingStep(name="Train", step_args=ridge.train(input_data_config=[channel]), cache_config=CACHE)
    data = train.properties.ModelArtifacts.S3ModelArtifacts
    report = PropertyFile(name="Report", output_name="evaluation", path="evaluation.json")
    inputs = {"model": data, "test": outputs["test"].S3Output.S3Uri}
    evaluate = processing(sdk, "Evaluate", "evaluate.py", inputs, ["evaluation"], property_files=[report])
    settings = {"SAGEMAKER_PROGRAM": "inference.py", "SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/model/code"}
    who = {"image_uri": IMAGE, "role_arn": ROLE, "sagemaker_session": sdk.session, "instance_type": "ml.m5.large"}
    builder = ModelBuilder(s3_model_data_url=data, env_vars=settings, **who)
    types = {"content_types": ["text/csv"], "response_types": ["text/csv"]}
    machines = {"inference_instances": ["ml.m5.large"], "transform_instances": ["ml.m5.large"]}
    package = builder.register(model_package_group_name="abalone", approval_status=approval, **types, **machines)
    model = ModelStep(name="Model", step_args=builder.build())
    mse = JsonGet(step_name="Evaluate", property_file=report, json_path="regression_metrics.mse.value")
    is_good = conditions.ConditionLessThanOrEqualTo(left=mse, right=limit)
    register = ModelStep(name="Register", step_args=package)
    bad = FailStep(name="TooBad", error_message=Join(on=" ", values=["MSE above", limit.to_string()]))
    check = ConditionStep(name="Check", conditions=[is_good], if_steps=[register], else_steps=[bad])
    return [prepare, train, evaluate, check, model, *served(sdk, model.properties.ModelName)]


def served(sdk: Sdk, name: Any) -> list[Any]:
    """A transform job and an endpoint of a model."""
    sdk.aws.client("s3").put_object(Bucket="numbers", Key="in/a.csv", Body=b"1,2\n3,4\n")
    how = {"strategy": "SingleRecord", "assemble_with": "Line", "output_path": "s3://numbers/out"}
    transformer = Transformer(model_name=name, sagemaker_session=sdk.session, **MACHINE, **how)
    records = {"content_type": "text/csv", "split_type": "Line", "join_source": "Input", "output_filter": "$[0,-1]"}
    transform = TransformStep(name="Transform", step_args=transformer.transform(data="s3://numbers/in", **records))
    variant = {"VariantName": "All", "ModelName": name, "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    request = sdk.session.create_endpoint_config(name="sums", production_variants=[variant])
    config = EndpointConfigStep(name="Config", step_args=request)
    request = sdk.session.create_endpoint(endpoint_name="sums", config_name="sums", wait=False)
    return [transform, config, EndpointStep(name="Endpoint", step_args=request, depends_on=[config])]


def search(sdk: Sdk) -> list[Any]:
    """A grid of three trials, the best of which is taken up by its place in S3."""
    models = shapes.OutputDataConfig(s3_output_path="s3://search/models")
    pattern = {"Name": "score", "Regex": "score=([-0-9.]+);"}
    tuner = HyperparameterTuner(
        trainer(sdk, "search", output_data_config=models),
        "score",
        {"point": CategoricalParameter(["1", "3", "7"])},
        metric_definitions=[pattern],
        strategy="Grid",
        max_jobs=3,
        max_parallel_jobs=3,
    )
    tune = TuningStep(name="Tune", step_args=tuner.tune(inputs=[]))
    best = tune.get_top_model_s3_uri(top_k=0, s3_bucket="search", prefix="models")
    return [tune, processing(sdk, "TakeBest", "take.py", {"model": best}, ["taken"])]


def decisions(sdk: Sdk, n: Any) -> list[Any]:
    """A function made by the SDK, and nested conditions on what it says."""
    code = {"script": str(CODE / "twice.py"), "handler": "twice.handler"}
    who = {"function_name": "twice", "execution_role_arn": ROLE, "session": sdk.session}
    function = Lambda(environment={"Variables": {"WHO": "me"}}, **code, **who)
    types = {"twice": "Integer", "who": "String", "big": "Boolean"}
    outputs = [LambdaOutput(output_name=key, output_type=LambdaOutputTypeEnum[kind]) for key, kind in types.items()]
    call = LambdaStep(name="Call", lambda_func=function, inputs={"n": n}, outputs=outputs)
    found = call.properties.Outputs
    small, big = (
        processing(sdk, name, "note.py", outputs=["note"], arguments=[name, found["twice"].to_string()])
        for name in ("Small", "Big")
    )
    is_big = conditions.ConditionNot(conditions.ConditionEquals(found["big"], False))
    both = [conditions.ConditionIn(found["who"], ["you", "me"]), is_big]
    inner = ConditionStep(name="Inner", conditions=both, if_steps=[big], else_steps=[small])
    is_some = conditions.ConditionGreaterThan(found["twice"], 3)
    return [call, ConditionStep(name="Outer", conditions=[is_some], if_steps=[inner], else_steps=[])]


def launched(sdk: Sdk) -> list[Any]:
    """What torchrun trains, a folder with its requirements, and functions as steps."""

    def add(a: int, b: int) -> int:
        return a + b

    pair = trainer(sdk, "reduce", distributed=Torchrun(process_count_per_node=2))
    reduce = TrainingStep(name="Reduce", step_args=pair.train())
    inputs = {"model": reduce.properties.ModelArtifacts.S3ModelArtifacts}
    who = {"image_uri": IMAGE, "role": ROLE}
    processor = FrameworkProcessor(command=["python3"], sagemaker_session=sdk.session, **MACHINE, **who)
    source = {"source_dir": str(CODE / "package"), "requirements": "requirements.txt"}
    request = processor.run(code="main.py", outputs=[output("values")], **source)
    job = {"instance_type": "ml.m5.large", **who}
    total = step(add, name="Total", **job)(step(add, name="First", **job)(1, 2), 10)
    take = processing(sdk, "TakeSum", "take.py", inputs, ["taken"])
    return [reduce, take, ProcessingStep(name="Framework", step_args=request), total]


def everything(sdk: Sdk) -> Any:
    """A pipeline of all this, in which jobs have names of the user's own."""
    rows = [f"{'MF'[n % 2]},{n % 7 / 10},{n % 5 / 5},{3 + n % 7 + 2 * (n % 5) + n % 2}" for n in range(200)]
    (sdk.folder / "abalone.csv").write_text("\n".join(["sex,length,weight,rings", *rows]))
    data = ParameterString("Data", sdk.session.upload_data(str(sdk.folder / "abalone.csv"), key_prefix="abalone"))
    count, limit, n = ParameterInteger("Seed", 1), ParameterFloat("MseThreshold", 1.0), ParameterInteger("N", 2)
    approval = ParameterString("Approval", "Approved")
    return Pipeline(
        name="everything",
        parameters=[count, limit, data, approval, n],
        steps=[*abalone(sdk, count, limit, data, approval), *search(sdk), *decisions(sdk, n), *launched(sdk)],
        sagemaker_session=sdk.session,
        pipeline_definition_config=PipelineDefinitionConfig(use_custom_job_prefix=True),
    )


def slow(sdk: Sdk) -> Any:
    """A pipeline that takes five minutes."""
    return Pipeline(name="slow", steps=[processing(sdk, "Sleep", "sleep.py")], sagemaker_session=sdk.session)


def unrunnable(sdk: Sdk) -> list[Any]:
    """Pipelines with a step that does not run here, behind one that would."""
    answer = CallbackOutput(output_name="answer", output_type=CallbackOutputTypeEnum.String)
    ask = CallbackStep(name="Ask", sqs_queue_url="https://sqs/queue", inputs={}, outputs=[answer])
    image = image_uris.retrieve("xgboost", "us-east-1", version="1.7-1", instance_type="ml.m5.large")
    boosted = ModelTrainer(training_image=image, role=ROLE, sagemaker_session=sdk.session, compute=Compute(**MACHINE))
    steps = [ask, TrainingStep(name="Boost", step_args=boosted.train())]
    before = processing(sdk, "Before", "note.py", outputs=["note"])
    return [Pipeline(name=f"not-{last.name}", steps=[before, last], sagemaker_session=sdk.session) for last in steps]

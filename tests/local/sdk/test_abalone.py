"""The shape of AWS's first pipeline example: prepare, train, evaluate, and register or fail by a condition."""

import json

import pytest

from tests.local.sdk.conftest import IMAGE, ROLE, Outcome, Sdk, output, processing_input

PREPARE = """
    import argparse, pandas
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import StandardScaler
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int)
    seed = parser.parse_args().seed
    table = pandas.read_csv("/opt/ml/processing/input/abalone.csv")
    table["sex"] = (table["sex"] == "M").astype(float)
    table[["length", "weight"]] = StandardScaler().fit_transform(table[["length", "weight"]])
    train, test = train_test_split(table[["rings", "sex", "length", "weight"]], test_size=0.25, random_state=seed)
    train.to_csv("/opt/ml/processing/train/train.csv", header=False, index=False)
    test.to_csv("/opt/ml/processing/test/test.csv", header=False, index=False)
"""
TRAIN = """
    import argparse, os, pickle, numpy
    from helper import fit
    parser = argparse.ArgumentParser()
    parser.add_argument("--penalty", type=float)
    told = parser.parse_args()
    rows = numpy.loadtxt(os.path.join(os.environ["SM_CHANNEL_TRAIN"], "train.csv"), delimiter=",")
    model = fit(rows[:, 1:], rows[:, 0], told.penalty)
    print(f"train:rows={len(rows)};")
    with open(os.path.join(os.environ["SM_MODEL_DIR"], "model.pkl"), "wb") as stream:
        pickle.dump(model, stream)
"""
HELPER = """
    from sklearn.linear_model import Ridge
    def fit(features, target, penalty):
        return Ridge(alpha=penalty).fit(features, target)
"""
EVALUATE = """
    import json, pickle, tarfile, numpy
    with tarfile.open("/opt/ml/processing/model/model.tar.gz") as archive:
        model = pickle.load(archive.extractfile("model.pkl"))
    rows = numpy.loadtxt("/opt/ml/processing/test/test.csv", delimiter=",")
    mse = float(((model.predict(rows[:, 1:]) - rows[:, 0]) ** 2).mean())
    report = {"regression_metrics": {"mse": {"value": mse, "rows": len(rows)}}}
    open("/opt/ml/processing/evaluation/evaluation.json", "w").write(json.dumps(report))
"""


@pytest.fixture(scope="module")
def run(sdk: Sdk) -> Outcome:
    from sagemaker.core.workflow.conditions import ConditionLessThanOrEqualTo
    from sagemaker.core.workflow.functions import Join, JsonGet
    from sagemaker.core.workflow.parameters import ParameterFloat, ParameterInteger, ParameterString
    from sagemaker.core.workflow.properties import PropertyFile
    from sagemaker.mlops.workflow.condition_step import ConditionStep
    from sagemaker.mlops.workflow.fail_step import FailStep
    from sagemaker.mlops.workflow.model_step import ModelStep
    from sagemaker.mlops.workflow.steps import CacheConfig, ProcessingStep, TrainingStep
    from sagemaker.serve.model_builder import ModelBuilder
    from sagemaker.train import ModelTrainer
    from sagemaker.train.configs import Compute, InputData, SourceCode

    rows = [f"{'MF'[n % 2]},{n % 7 / 10},{n % 5 / 5},{3 + n % 7 + 2 * (n % 5) + n % 2}" for n in range(200)]
    data = sdk.script("abalone.csv", "sex,length,weight,rings\n" + "\n".join(rows))
    uri = sdk.session.upload_data(data, key_prefix="abalone")
    count, limit = ParameterInteger("Seed", 1), ParameterFloat("MseThreshold", 1.0)
    source, approval = ParameterString("InputData", uri), ParameterString("Approval", "Approved")
    cache = CacheConfig(enable_caching=True, expire_after="P1D")

    prepare = ProcessingStep(
        name="Prepare",
        step_args=sdk.processor().run(
            code=sdk.script("prepare.py", PREPARE),
            inputs=[processing_input("raw", source, "/opt/ml/processing/input")],
            outputs=[output("train", "/opt/ml/processing/train"), output("test", "/opt/ml/processing/test")],
            arguments=["--seed", count.to_string()],
        ),
        cache_config=cache,
    )
    outputs = prepare.properties.ProcessingOutputConfig.Outputs
    sdk.script("src/helper.py", HELPER)
    sdk.script("src/train.py", TRAIN)
    trainer = ModelTrainer(
        training_image=IMAGE,
        role=ROLE,
        sagemaker_session=sdk.session,
        base_job_name="abalone",
        source_code=SourceCode(source_dir=str(sdk.folder / "src"), entry_script="train.py"),
        compute=Compute(instance_type="ml.m5.large", instance_count=1),
        hyperparameters={"penalty": 0.001},
    )
    channel = InputData(channel_name="train", data_source=outputs["train"].S3Output.S3Uri)
    train = TrainingStep(name="Train", step_args=trainer.train(input_data_config=[channel]), cache_config=cache)
    report = PropertyFile(name="Report", output_name="evaluation", path="evaluation.json")
    evaluate = ProcessingStep(
        name="Evaluate",
        step_args=sdk.processor().run(
            code=sdk.script("evaluate.py", EVALUATE),
            inputs=[
                processing_input("model", train.properties.ModelArtifacts.S3ModelArtifacts, "/opt/ml/processing/model"),
                processing_input("test", outputs["test"].S3Output.S3Uri, "/opt/ml/processing/test"),
            ],
            outputs=[output("evaluation", "/opt/ml/processing/evaluation")],
        ),
        property_files=[report],
    )
    builder = ModelBuilder(
        s3_model_data_url=train.properties.ModelArtifacts.S3ModelArtifacts,
        image_uri=IMAGE,
        role_arn=ROLE,
        sagemaker_session=sdk.session,
        instance_type="ml.m5.large",
        env_vars={"SAGEMAKER_PROGRAM": "inference.py"},
    )
    register = ModelStep(
        name="Register",
        step_args=builder.register(
            model_package_group_name="abalone",
            content_types=["text/csv"],
            response_types=["text/csv"],
            inference_instances=["ml.m5.large"],
            transform_instances=["ml.m5.large"],
            approval_status=approval,
        ),
    )
    mse = JsonGet(step_name="Evaluate", property_file=report, json_path="regression_metrics.mse.value")
    check = ConditionStep(
        name="Check",
        conditions=[ConditionLessThanOrEqualTo(left=mse, right=limit)],
        if_steps=[register],
        else_steps=[FailStep(name="TooBad", error_message=Join(on=" ", values=["MSE above", limit.to_string()]))],
    )
    return sdk.run("abalone", [prepare, train, evaluate, check], [count, limit, source, approval])


def test_a_good_model_is_registered_with_what_was_computed(run: Outcome) -> None:
    names = ["Check", "Evaluate", "Prepare", "Register", "Train"]
    assert run.statuses == dict.fromkeys(names, "Succeeded")
    metric = json.loads(run.output("Evaluate", "evaluation.json"))["regression_metrics"]["mse"]
    assert metric["rows"] == 50
    assert 0 <= metric["value"] < 0.01
    assert run.steps["Check"]["Metadata"]["Condition"]["Outcome"] == "True"
    package = run.job("Register")
    assert (package["ModelApprovalStatus"], package["ModelPackageVersion"]) == ("Approved", 1)
    [container] = package["InferenceSpecification"]["Containers"]
    assert container["ModelDataUrl"] == run.job("Train")["ModelArtifacts"]["S3ModelArtifacts"]
    assert len(run.output("Prepare", "train.csv").splitlines()) == 150


def test_a_bad_model_fails_with_the_threshold_and_what_is_unchanged_is_reused(sdk: Sdk, run: Outcome) -> None:
    again = sdk.start(run.pipeline, MseThreshold=-1.0)
    assert again.statuses["TooBad"] == "MSE above -1.0"
    assert "Register" not in again.steps
    assert [name for name in sorted(again.steps) if "CacheHitResult" in again.steps[name]] == ["Prepare", "Train"]
    assert again.execution.describe()["PipelineExecutionStatus"] == "Failed"


def test_the_logs_of_the_jobs_are_read_as_on_the_service(sdk: Sdk, run: Outcome) -> None:
    from sagemaker.core.helper.session_helper import _flush_log_streams

    name = run.steps["Train"]["Metadata"]["TrainingJob"]["Arn"].rpartition("/")[2]
    lines: list[str] = []
    _flush_log_streams(
        [],
        1,
        sdk.aws.client("logs"),
        "/aws/sagemaker/TrainingJobs",
        name,
        {},
        False,
        lambda index, text: lines.append(text),
    )
    assert any("train:rows=150;" in line for line in lines)

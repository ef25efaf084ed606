"""What the local target cannot run: refused by name, before anything runs."""

from typing import Any

import pytest

from tests.local.lab import Lab, call, get

REFUSED: dict[str, tuple[Any, list[str]]] = {
    "an unknown type": (
        [{"Name": "Q", "Type": "QualityCheck", "Arguments": {}}, {"Name": "P", "Type": "Proccessing", "Arguments": {}}],
        [
            "Step 'Q' is a step of type QualityCheck, which does not run locally: the Model Monitor image is AWS's; "
            "replace it by a Processing step of your own.",
            "Step 'P' has the type 'Proccessing', which no step has. Did you mean 'Processing'?",
        ],
    ),
    "a circle": (
        [call("A", {"x": get("Steps.B.OutputParameters['x']")}, {"x": "String"}), call("B", {}, {}, DependsOn=["A"])],
        ["Steps wait for each other in a circle: 'A' waits for 'B' waits for 'A'."],
    ),
    "functions that are not there": (
        [call("A", {}, {}), call("B", {}, {}, function="other:3")],
        [
            "Step 'A' calls the Lambda function 'fn', which is not known here; give it with --lambda "
            "fn=FILE.py:HANDLER.",
            "Step 'B' calls the Lambda function 'other', which is not known here; give it with --lambda "
            "other=FILE.py:HANDLER.",
        ],
    ),
    "requests that lack what is needed": (
        [
            {"Name": "P", "Type": "Processing", "Arguments": {"AppSpecification": {"ImageUri": "i"}}},
            {"Name": "P2", "Type": "Processing", "Arguments": {}},
            {"Name": "T", "Type": "Training", "Arguments": {"AlgorithmSpecification": {"TrainingImage": "i"}}},
            {"Name": "H", "Type": "Tuning", "Arguments": {"HyperParameterTuningJobConfig": {"Strategy": "Random"}}},
            {"Name": "M", "Type": "Model", "Arguments": {}},
            {"Name": "R", "Type": "RegisterModel", "Arguments": {}},
            {"Name": "X", "Type": "Transform", "Arguments": {"ModelName": "m"}},
            {"Name": "L", "Type": "Lambda", "Arguments": {}},
        ],
        [
            "Step 'P' has no AppSpecification.ContainerEntrypoint, and its image's own is not on this machine; name "
            "the program.",
            "Step 'P2' lacks AppSpecification.",
            "Step 'T' lacks OutputDataConfig.S3OutputPath.",
            "Step 'H' lacks TrainingJobDefinition.",
            "Step 'M' lacks PrimaryContainer.",
            "Step 'R' lacks ModelPackageGroupName.",
            "Step 'X' lacks TransformInput.DataSource.S3DataSource.S3Uri.",
            "Step 'X' lacks TransformOutput.S3OutputPath.",
            "Step 'L' needs the ARN of a function as FunctionArn, but has None.",
            "Step 'L' calls the Lambda function '', which is not known here; give it with --lambda =FILE.py:HANDLER.",
        ],
    ),
    "members that cannot be read": (
        [
            {
                "Name": "P",
                "Type": "Processing",
                "CacheConfig": {"Enabled": True, "ExpireAfter": "a day"},
                "RetryPolicies": "none",
                "Arguments": {
                    "AppSpecification": {"ContainerEntrypoint": ["true"]},
                    "ProcessingInputs": [
                        {"InputName": "a", "DatasetDefinition": {}},
                        {"S3Input": {"S3Uri": "s3://b/m", "LocalPath": "/opt/ml/processing/m", "S3InputMode": "Pipe"}},
                    ],
                    "ProcessingOutputConfig": {"Outputs": [{"OutputName": "o", "FeatureStoreOutput": {}}]},
                },
            },
            {
                "Name": "T",
                "Type": "Training",
                "Arguments": {
                    "AlgorithmSpecification": {
                        "ContainerEntrypoint": ["true"],
                        "TrainingInputMode": "Pipe",
                        "MetricDefinitions": [{"Name": "m", "Regex": "("}],
                    },
                    "OutputDataConfig": {"S3OutputPath": "s3://b/o"},
                    "InputDataConfig": [
                        {"ChannelName": "c", "DataSource": {"FileSystemDataSource": {}}},
                        {"ChannelName": "p", "DataSource": {"S3DataSource": {"S3Uri": "s3://b/p"}}},
                    ],
                },
            },
        ],
        [
            "Step 'P' lacks ProcessingInputs[0].S3Input.S3Uri.",
            "Step 'P' lacks ProcessingInputs[0].S3Input.LocalPath.",
            "Step 'P' has a pipe in ProcessingInputs[1].S3Input; the local target reads files: use the mode File or "
            "FastFile, uncompressed.",
            "Step 'P' lacks ProcessingOutputConfig.Outputs[0].S3Output.S3Uri.",
            "Step 'P' lacks ProcessingOutputConfig.Outputs[0].S3Output.LocalPath.",
            "Step 'P' has 'a day' as CacheConfig.ExpireAfter, which is not an ISO 8601 duration such as P30D or PT2H.",
            "Step 'P' needs a list of objects as RetryPolicies, but has 'none'.",
            "Step 'T' lacks InputDataConfig[0].DataSource.S3DataSource.S3Uri.",
            "Step 'T' has a pipe in InputDataConfig[0]; the local target reads files: use the mode File or FastFile, "
            "uncompressed.",
            "Step 'T' has a pipe in InputDataConfig[1]; the local target reads files: use the mode File or FastFile, "
            "uncompressed.",
            "Step 'T' has '(' as AlgorithmSpecification.MetricDefinitions[0].Regex, which is not a regular expression: "
            "missing ), unterminated subpattern at position 0.",
        ],
    ),
    "an image's own program": (
        [
            {
                "Name": "T",
                "Type": "Training",
                "Arguments": {
                    "AlgorithmSpecification": {"TrainingImage": "xgboost"},
                    "OutputDataConfig": {"S3OutputPath": "s3://b/o"},
                },
            }
        ],
        [
            "Step 'T' would start its image's own 'train' program, which is not on this machine; name a script by a "
            "ContainerEntrypoint or by the hyperparameters sagemaker_program and sagemaker_submit_directory."
        ],
    ),
    "steps that are none": (
        [1, {"Name": "bad name!", "Type": "Fail", "Arguments": None}],
        [
            "A step must be an object with Name, Type and Arguments, but got 1.",
            "Step name 'bad name!' is not 1 to 64 letters, digits, '-' and '_'.",
            "Step 'bad name!' needs an object as Arguments, but got None.",
        ],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_run_is_refused_by_name_before_anything_runs(lab: Lab, case: str) -> None:
    steps, sentences = REFUSED[case]
    first = lab.processing("First", "")
    report = lab.run(first, *steps)
    assert report.stderr.splitlines() == sentences
    assert (report.code, report.stdout) == (2, "")
    assert not (lab.home / "jobs").exists()


@pytest.mark.parametrize(
    ("definition", "options", "sentence"),
    [
        ("{", [], "{file} is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)."),
        ([], [], "{file} is not a pipeline definition: it has no list 'Steps'."),
        ({"Steps": {}}, [], "{file} is not a pipeline definition: it has no list 'Steps'."),
        (
            {"Steps": [], "Parameters": [{"Name": "A", "Type": "Integer", "DefaultValue": 1}]},
            ["--param", "A=1.5"],
            "Parameter 'A' must be a whole number, but is '1.5'.",
        ),
        (
            {"Steps": [], "Parameters": {"A": 1}},
            [],
            'Parameters must be a list of objects with Name and Type, but is {{"A": 1}}.',
        ),
        (
            {"Steps": [], "Parameters": [{"Name": "A", "Type": "Boolean"}]},
            [],
            "Parameter 'A' (Boolean) has no default, so it needs a value.",
        ),
    ],
)
def test_a_definition_that_is_none_or_a_wrong_parameter_is_refused(
    lab: Lab, definition: Any, options: list[str], sentence: str
) -> None:
    report = lab.run_definition(definition, options=options)
    assert (report.code, report.stdout) == (2, "")
    assert report.stderr.strip() == sentence.format(file=lab.folder / "lab.json")

"""What a job may ask for that is not here: said by name before anything runs."""

import pytest

from tests.local.lab import Json, Lab


def changed(document: Json, path: str, value: object) -> Json:
    """The document with a member set; `path` is its keys and indices with dots between."""
    *parents, last = [int(key) if key.isdecimal() else key for key in path.split(".")]
    place = document
    for key in parents:
        place = place[key]
    place[last] = value
    return document


REFUSED = {
    "Processing": [
        ("ProcessingInputs.0.S3Input.S3InputMode", "Pipe", "pipe in ProcessingInputs[0]"),
        ("ProcessingInputs.0.S3Input.S3CompressionType", "Gzip", "pipe in ProcessingInputs[0]"),
        ("ProcessingInputs.0.AppManaged", True, "AppManaged input or DatasetDefinition in ProcessingInputs[0]"),
        ("ProcessingInputs.0", {"InputName": "d", "DatasetDefinition": {}}, "lacks ProcessingInputs[0].S3Input"),
        ("ProcessingInputs.0", {"DatasetDefinition": {"LocalPath": "/opt/ml"}}, "DatasetDefinition"),
        ("ProcessingOutputConfig.Outputs.0.AppManaged", True, "AppManaged or FeatureStoreOutput"),
    ],
    "Training": [
        ("InputDataConfig.0.InputMode", "Pipe", "pipe in InputDataConfig[0]"),
        ("InputDataConfig.0.CompressionType", "Gzip", "pipe in InputDataConfig[0]"),
        ("InputDataConfig.0.DataSource.S3DataSource.S3DataType", "AugmentedManifestFile", "'AugmentedManifestFile'"),
        ("InputDataConfig.0.DataSource", {"FileSystemDataSource": {}}, "lacks InputDataConfig[0].DataSource.S3"),
        ("HyperParameters.sagemaker_mpi_enabled", "true", "sagemaker_mpi_enabled"),
        ("HyperParameters.sagemaker_torch_distributed_enabled", True, "sagemaker_torch_distributed_enabled"),
        ("AlgorithmSpecification.ContainerEntrypoint", ["mpirun", "-np", "2", "python", "t.py"], "by MPI"),
        ("AlgorithmSpecification.ContainerArguments", ["--distribution", "mpirun"], "by MPI"),
        ("AlgorithmSpecification.ContainerArguments", ["--job_conda_env", "mine"], "by conda"),
        ("AlgorithmSpecification.ContainerEntrypoint", ["bash", "/opt/ml/input/data/b/spark_app.py"], "by Spark"),
    ],
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_a_job_cannot_have_here_is_refused_by_name(lab: Lab, kind: str) -> None:
    steps = []
    for number, (path, value, _) in enumerate(REFUSED[kind]):
        name = f"Step{number}"
        if kind == "Processing":
            step = lab.processing(name, "", inputs={"i": "s3://bucket/i"}, outputs=["o"])
        else:
            step = lab.training(name, "", channels={"c": "s3://bucket/c"})
        steps.append({**step, "Arguments": changed(step["Arguments"], path, value)})
    report = lab.run(*steps)
    assert (report.code, report.stdout) == (2, "")
    for number, (_, _, said) in enumerate(REFUSED[kind]):
        lines = [line for line in report.stderr.splitlines() if line.startswith(f"Step 'Step{number}' ")]
        assert any(said in line for line in lines), (number, lines)
    assert not (lab.home / "jobs").exists()

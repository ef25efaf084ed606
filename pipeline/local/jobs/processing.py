"""Runs a Processing step as a job.

The contract is that of "build your own processing container" in the SageMaker guide: see processingjobconfig.json,
resourceconfig.json, and /opt/ml/output/message, whose first kilobyte becomes ExitMessage.
"""

from pipeline.local.jobs.runtime import Job, LiveFolder, Runtime, StepCall, StepResult, inside
from pipeline.local.sandbox.process import Command, Exit, JobDirectory
from pipeline.local.store.state import Document

MESSAGE_BYTES = 1024  # in ExitMessage


async def run_processing(call: StepCall, runtime: Runtime) -> StepResult:
    """One Processing step, or a StepFailure."""
    job = ProcessingJob(call, runtime)
    await job.run()
    updated = updated_uris(call.arguments)
    return StepResult(
        job.document, job.metadata, [output["S3Uri"] for output in job.outputs if output["S3Uri"] not in updated]
    )


class ProcessingJob(Job):
    """One processing job."""

    verb = "Processing"
    folders = ("config", "output")
    failure_file = "/opt/ml/output/message"

    def __init__(self, call: StepCall, runtime: Runtime) -> None:
        request = call.arguments
        count = request.get("ProcessingResources", {}).get("ClusterConfig", {}).get("InstanceCount", 1)
        isolated = request.get("NetworkConfig", {}).get("EnableNetworkIsolation", False)
        self.outputs = outputs_of(request)
        super().__init__(call.job_name, request, runtime, count=count, isolated=isolated)

    def lay_out(self, host: JobDirectory, rank: int) -> Command:
        """Inputs, empty output directories and configuration files."""
        folders = [inside(host, output["LocalPath"]) for output in self.outputs]
        share = rank, len(self.hosts)
        for source in self.document.get("ProcessingInputs", []):
            folder = inside(host, source["S3Input"]["LocalPath"])
            self.place_input(source["S3Input"], folder, host, share=share, written=folders)
        for output, folder in zip(self.outputs, folders, strict=True):
            folder.mkdir(parents=True, exist_ok=True)
            if output.get("S3UploadMode") == "Continuous":
                self.live.append(LiveFolder(host, output["LocalPath"], output["S3Uri"], self.runtime.storage))
        self.write_json(host, "config/processingjobconfig.json", self.document)
        resources = {"current_host": self.host_names[rank], "hosts": self.host_names}
        self.write_json(host, "config/resourceconfig.json", resources)
        program = self.document["AppSpecification"]
        words = [*program["ContainerEntrypoint"], *program.get("ContainerArguments", [])]
        return Command(words, self.document.get("Environment", {}), "/opt/ml")

    def collect(self, *, succeeded: bool) -> None:
        """Every output to its S3 URI, one host after the other; only Continuous ones unless the job succeeded."""
        for folder in self.live if not succeeded else ():
            folder.upload()
        for output in self.outputs if succeeded else ():
            for host in self.hosts:
                self.runtime.storage.upload(host.left(output["LocalPath"]), output["S3Uri"])

    def outcome(self, host: JobDirectory, ended: Exit) -> tuple[str, str | None]:
        """As of every job; the script's message is kept whatever the outcome."""
        if message := host.message(self.failure_file, MESSAGE_BYTES):
            self.document["ExitMessage"] = message
        return super().outcome(host, ended)


def outputs_of(arguments: Document) -> list[Document]:
    """The S3Output of every ProcessingOutput."""
    return [output["S3Output"] for output in arguments.get("ProcessingOutputConfig", {}).get("Outputs", [])]


def input_uri(given: Document) -> str | None:
    """The S3 URI of a ProcessingInput."""
    uri: str | None = given.get("S3Input", {}).get("S3Uri")
    return uri


def updated_uris(arguments: Document) -> set[str | None]:
    """What a job reads and adds to: S3 URIs that are both an input and an output."""
    return {output["S3Uri"] for output in outputs_of(arguments)} & {
        input_uri(given) for given in arguments.get("ProcessingInputs", [])
    }

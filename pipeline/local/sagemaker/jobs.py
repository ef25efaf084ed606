"""Jobs of executions, described and listed: `jobs/` keeps their documents as the service describes them."""

from pipeline.local.store.answers import chosen, found, listed, paged
from pipeline.local.store.state import Document, State

TRAINING = ("TrainingJobName", "TrainingJobArn", "CreationTime", "TrainingEndTime", "TrainingJobStatus")
PROCESSING = ("ProcessingJobName", "ProcessingJobArn", "CreationTime", "ProcessingEndTime", "ProcessingJobStatus")
TUNING = (
    "HyperParameterTuningJobName",
    "HyperParameterTuningJobArn",
    "HyperParameterTuningJobStatus",
    "Strategy",
    "CreationTime",
    "HyperParameterTuningEndTime",
    "TrainingJobStatusCounters",
    "ObjectiveStatusCounters",
    "ResourceLimits",
)


def describe_processing_job(state: State, request: Document) -> Document:
    """DescribeProcessingJob."""
    return found(state, "ProcessingJob", request["ProcessingJobName"], "processing job")


def list_processing_jobs(state: State, request: Document) -> Document:
    """ListProcessingJobs."""
    return job_list(state, "ProcessingJob", request, "ProcessingJobSummaries", PROCESSING)


def describe_training_job(state: State, request: Document) -> Document:
    """DescribeTrainingJob."""
    return found(state, "TrainingJob", request["TrainingJobName"], "training job")


def list_training_jobs(state: State, request: Document) -> Document:
    """ListTrainingJobs."""
    return job_list(state, "TrainingJob", request, "TrainingJobSummaries", TRAINING)


def describe_hyper_parameter_tuning_job(state: State, request: Document) -> Document:
    """DescribeHyperParameterTuningJob."""
    name = request["HyperParameterTuningJobName"]
    return found(state, "HyperParameterTuningJob", name, "hyperparameter tuning job")


def list_hyper_parameter_tuning_jobs(state: State, request: Document) -> Document:
    """ListHyperParameterTuningJobs."""
    return job_list(state, "HyperParameterTuningJob", request, "HyperParameterTuningJobSummaries", TUNING)


def list_training_jobs_for_hyper_parameter_tuning_job(state: State, request: Document) -> Document:
    """ListTrainingJobsForHyperParameterTuningJob: the trials, in the order of their start."""
    trials = describe_hyper_parameter_tuning_job(state, request)["Trials"]
    status = request.get("StatusEquals")
    wanted = [trial for trial in trials if status in (None, trial["TrainingJobStatus"])]
    return paged("TrainingJobSummaries", wanted, request)


def job_list(state: State, kind: str, request: Document, member: str, summary: tuple[str, ...]) -> Document:
    """Jobs of a kind, by a part of their name and by status."""
    wanted, status = request.get("NameContains", ""), request.get("StatusEquals")
    jobs = listed(
        state.all(kind), request, lambda job: wanted in job[f"{kind}Name"] and status in (None, job[f"{kind}Status"])
    )
    return paged(member, [chosen(job, *summary) for job in jobs], request)

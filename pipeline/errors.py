"""What can go wrong in a way that the user can mend.

PipelineError               one sentence, or several, for the terminal; never a traceback
├── UsageError              the command line: exit status 2
│   ├── ConfigError         pipeline.yaml: every problem at once, each with file and line
│   ├── DefinitionError     a compiled definition: every problem at once, each with its step
│   ├── ParameterError      a value given to a runtime parameter
│   └── DataSourceError     --data or data.source
└── ServiceError            SageMaker, here or on AWS, refused a request: exit status 1
    ├── PassingError        it was throttled or not answered; the same request may succeed later
    └── ImageRefused        the endpoint does not take this one image; it may take others
"""

from collections.abc import Sequence


class PipelineError(Exception):
    """The root: its text is a sentence for the user."""


class UsageError(PipelineError):
    """A mistake in what the user wrote."""


class ProblemList(UsageError):
    """Several mistakes, reported together: `problems` holds one sentence each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


class ConfigError(ProblemList):
    """pipeline.yaml is not acceptable."""


class DefinitionError(ProblemList):
    """A compiled pipeline definition is not acceptable."""


class ParameterError(ProblemList):
    """A runtime parameter's value is not acceptable."""


class DataSourceError(UsageError):
    """The data source does not exist or cannot be used."""


class ServiceError(PipelineError):
    """SageMaker refused a request; the sentence names what and why."""


class PassingError(ServiceError):
    """A request was throttled or not answered; it may be repeated."""


class ImageRefused(ServiceError):
    """The endpoint did not classify one image; the fault is the image's, or one of the model on that image."""

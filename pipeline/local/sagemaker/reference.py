"""Writes docs/api.md from the dispatcher's tables: `python -m pipeline.local.sagemaker.reference`."""

import inspect
import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from pipeline.definition.schemas import service_model
from pipeline.local.sagemaker.api import operations
from pipeline.paths import ROOT

HERE = re.compile(r"\b[Hh]ere\b(?! is| are)")  # of what is otherwise on AWS
HEAD = """# API

What the local SageMaker answers: by HTTP to the AWS CLI, boto3, the SageMaker SDK and any other client, and to the
boto3 clients of jobs. `python run_pipeline.py studio` ([studio.md](studio.md)) prints the address. Any credentials do.

```sh
export AWS_ENDPOINT_URL=http://127.0.0.1:8800 AWS_DEFAULT_REGION=us-east-1
export AWS_ACCESS_KEY_ID=any AWS_SECRET_ACCESS_KEY=thing
aws sagemaker list-pipelines
aws s3 ls
```

Requests are checked by botocore's models, answers and errors have the service's shape, waiters and paginators work.
Whatever is not listed is refused by its name: as UnknownOperationException, by S3 as NotImplemented, with status 400.
Members that mean nothing on one machine, such as networks, encryption keys and the size of instances, are taken and
described again, and change nothing. `differs` marks what is otherwise on AWS beyond that. Generated from the functions'
docstrings by `python -m pipeline.local.sagemaker.reference`.
"""


def page() -> str:
    """Return the text of docs/api.md."""
    lines = [HEAD]
    for service, functions in operations().items():
        model = service_model(service)
        lines += [f"## {model['metadata']['serviceFullName']}", ""]
        lines += [f"{len(functions)} of the {len(model['operations'])} operations of `{service}`.", ""]
        lines += ["| operation | status | what it does |", "|---|---|---|"]
        for name, function in sorted(functions.items()):
            said = remark(function, functions)
            lines.append(f"| {name} | {'differs' if HERE.search(said) else 'answered'} | {said} |")
        lines.append("")
    return "\n".join(lines)


def remark(function: Callable[..., Any], names: Iterable[str]) -> str:
    """Return what the first paragraph of a docstring says beside the names of operations at its beginning."""
    described = function.func if isinstance(function, partial) else function
    paragraph = " ".join((inspect.getdoc(described) or "").partition("\n\n")[0].split())
    listed = "|".join(sorted(names, key=len, reverse=True))
    said = re.sub(rf"^(?:(?:{listed})\b(?:, | and (?=[A-Z]))?)*(?: and its like)?[\s,;:.]*", "", paragraph)
    return f"{said[:1].upper()}{said[1:]}".replace("|", "\\|")


if __name__ == "__main__":
    (ROOT / "docs/api.md").write_text(page(), encoding="utf-8")

"""Executions and trials as MLflow has them, and a button that writes those which it has not."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pipeline.service.experiments import PARENT, PIPELINE, store_uri, written
from pipeline.service.targets import ask_all
from pipeline.studio import commands
from pipeline.studio.site import form_of, go_to, render, studio

SHOWN = 50  # on a page


def show(request: Request) -> Response:
    """The executions of a pipeline, or the children of one of them, with parameters and metrics."""
    here, given = studio(request), request.query_params
    pipelines = [each["PipelineName"] for each in ask_all(here.target, "list pipelines", "list_pipelines")]
    name, run, start = given.get("pipeline", ""), given.get("run"), given.get("start", "0")
    name = name or (here.config.pipeline.name if here.config.pipeline.name in pipelines else (pipelines or [""])[0])
    first = int(start[:9]) if start.isdecimal() else 0
    runs = written(here.target.home, PARENT if run else PIPELINE, run or name, first, SHOWN + 1)
    command = writing(request, name)
    return render(
        request, "experiments.html", pipelines=sorted(pipelines), name=name, run=run, runs=runs[:SHOWN],
        older=first + SHOWN if len(runs) > SHOWN else None, is_writing=commands.is_running(command),
        failure=commands.failure(command), store=store_uri(here.target, here.target.home), look=f"{command} --open",
        metrics=list(dict.fromkeys(key for each in runs for key in each["latest_metrics"])),
        parameters=list(dict.fromkeys(key for each in runs for key in each["params"])),
    )  # fmt: skip


def write(request: Request) -> Response:
    """Start to write the newest executions of a pipeline."""
    name = str(form_of(request).get("pipeline", ""))
    commands.start(writing(request, name))
    return go_to(f"/experiments?pipeline={name}", done="The newest executions are being written; look again soon.")


def writing(request: Request, name: str) -> str:
    return studio(request).call.command("experiments", "--pipeline", name)


ROUTES = [Route("/experiments", show), Route("/experiments", write, methods=["POST"])]

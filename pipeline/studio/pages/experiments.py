"""Executions and their steps and trials as MLflow has them."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pipeline.service.executions import pipeline_names
from pipeline.service.experiments import PARENT, PIPELINE, store_uri, written
from pipeline.studio.site import render, studio

SHOWN = 50  # on a page


def show(request: Request) -> Response:
    """The executions of a pipeline, or the children of one of them, with parameters and metrics."""
    here, given = studio(request), request.query_params
    pipelines = pipeline_names(here.target)
    name, run, start = given.get("pipeline") or "", given.get("run"), given.get("start", "0")
    name = name or next((each for each in pipelines if each == here.config.pipeline.name), "".join(pipelines[:1]))
    first = int(start[:9]) if start.isdecimal() else 0
    runs = written(here.target.home, PARENT if run else PIPELINE, run or name, first, SHOWN + 1)
    keys = [list(dict.fromkeys(key for each in runs for key in each[kind])) for kind in ("metrics", "params")]
    return render(
        request, "experiments.html",
        pipelines=sorted(pipelines), name=name, run=run, runs=runs[:SHOWN], metrics=keys[0], params=keys[1],
        older=first + SHOWN if len(runs) > SHOWN else None, store=store_uri(here.target, here.target.home),
        look=here.call.command("experiments", "--pipeline", name, "--open"),
    )  # fmt: skip


ROUTES = [Route("/experiments", show)]

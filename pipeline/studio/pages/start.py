"""A form made from a pipeline's parameters, which starts an execution."""

import json
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pipeline.config.config import check_parameters
from pipeline.definition.parameters import value_of
from pipeline.errors import ParameterError, PipelineError
from pipeline.service import executions
from pipeline.studio.pages.execution import address
from pipeline.studio.site import form_of, go_to, missing, render, studio

DISPLAY_NAME, PREFIX = "PipelineExecutionDisplayName", "parameter."  # what fields are called


def show(request: Request) -> Response:
    """The form, with the defaults or the values of an earlier execution."""
    target, earlier = studio(request).target, request.query_params.get("from")
    name = request.path_params["pipeline"]
    values = executions.parameters_of(target, executions.execution_arn(target, name, earlier)) if earlier else {}
    return form(request, {f"{PREFIX}{name}": value for name, value in values.items()}, {})


def start(request: Request) -> Response:
    """Start an execution with what was typed; the form again where it is not acceptable."""
    typed, given, problems = {name: str(value) for name, value in form_of(request).items()}, {}, {}
    for name, parameter in declared(request).items():
        field = f"{PREFIX}{name}"
        if typed.get(field) or (parameter.get("DefaultValue") == "" and field in typed):  # else by default
            given[name] = typed[field]
        try:
            value_of(parameter, given.get(name))
            if request.path_params["pipeline"] == studio(request).config.pipeline.name and name in given:
                check_parameters(studio(request).config, {name: given[name]})
        except (ParameterError, ValueError) as problem:
            problems[field] = str(problem)
    if not problems:
        try:
            target, pipeline = studio(request).target, request.path_params["pipeline"]
            named = {DISPLAY_NAME: text} if (text := typed.get(DISPLAY_NAME, "").strip()) else {}
            return go_to(address(executions.start(target, pipeline, given, None, **named)))
        except PipelineError as problem:
            problems[DISPLAY_NAME if DISPLAY_NAME in str(problem) else ""] = str(problem)
    return form(request, typed, problems)


def form(request: Request, typed: Mapping[str, str], problems: Mapping[str, str]) -> Response:
    """Return the page with what was typed, and what is wrong with it beside each field."""
    fields = []
    for name, parameter in declared(request).items():
        default, is_boolean = parameter.get("DefaultValue", ""), parameter.get("Type") == "Boolean"
        usual = default if isinstance(default, str) else json.dumps(default)
        choices = [str(each) for each in parameter.get("EnumValues") or (("true", "false") if is_boolean else ())]
        fields.append((f"{PREFIX}{name}", f"{name} ({parameter.get('Type')})", usual, choices))
    fields.append((DISPLAY_NAME, "Display name, if it is to have one", "", []))
    context = {"pipeline": request.path_params["pipeline"], "fields": fields, "typed": typed, "problems": problems}
    return render(request, "start.html", status=400 if problems else 200, **context)


def declared(request: Request) -> dict[str, Any]:
    """Return the parameters that a pipeline's definition declares, by name; 404 if there is no such pipeline."""
    name = request.path_params["pipeline"]
    known = executions.existing(studio(request).target.client("sagemaker"), name)
    if known is None:
        raise missing(f"pipeline {name!r}")
    return {each["Name"]: each for each in json.loads(known["PipelineDefinition"]).get("Parameters") or []}


ROUTES = [Route("/start/{pipeline}", show), Route("/start/{pipeline}", start, methods=["POST"])]

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

DISPLAY_NAME = "PipelineExecutionDisplayName"
PREFIX = "parameter."  # of the fields' names


def show(request: Request) -> Response:
    """The form, with the defaults or the values of an earlier execution."""
    target, name = studio(request).target, request.path_params["pipeline"]
    parameters, earlier = declared(request), request.query_params.get("from")
    given: dict[str, str] = {}
    if earlier:
        given = executions.parameters_of(target, executions.execution_arn(target, name, earlier))
    return form(request, parameters, given=given)


def start(request: Request) -> Response:
    """Start an execution with what was typed; the form again where it is not acceptable."""
    target, name, sent = studio(request).target, request.path_params["pipeline"], form_of(request)
    parameters = declared(request)
    typed = {key.removeprefix(PREFIX): str(value) for key, value in sent.items() if key.startswith(PREFIX)}
    display_name = str(sent.get(DISPLAY_NAME, "")).strip()
    problems = problems_of(request, parameters, typed)
    if not problems:
        try:
            given = {key: value for key, value in typed.items() if is_stated(parameters[key], value)}
            return go_to(address(executions.start(target, name, given, display_name=display_name)))
        except PipelineError as problem:
            field = DISPLAY_NAME if DISPLAY_NAME in str(problem) else ""
            problems = {field: str(problem)}
    return form(request, parameters, given=typed, display_name=display_name, problems=problems)


def form(
    request: Request,
    parameters: Mapping[str, Any],
    *,
    given: Mapping[str, str],
    display_name: str = "",
    problems: Mapping[str, str] | None = None,
) -> Response:
    """Return the page."""
    fields = []
    for name, parameter in parameters.items():
        default = parameter.get("DefaultValue")
        usual = "" if default is None else default if isinstance(default, str) else json.dumps(default)
        choices = parameter.get("EnumValues") or (["true", "false"] if parameter.get("Type") == "Boolean" else [])
        value = given.get(name, usual)
        value = value.lower() if parameter.get("Type") == "Boolean" else value
        known = [str(choice) for choice in choices]
        fields.append({
            "name": name, "type": parameter.get("Type"), "usual": usual, "value": value,
            "choices": known if not known or value in known else [value, *known],
        })  # fmt: skip
    return render(
        request,
        "start.html",
        status=400 if problems else 200,
        pipeline=request.path_params["pipeline"],
        fields=fields,
        display_name=display_name,
        problems=problems or {},
    )


def declared(request: Request) -> dict[str, Any]:
    """Return the parameters that a pipeline's definition declares, by name; 404 if there is no such pipeline."""
    name = request.path_params["pipeline"]
    known = executions.existing(studio(request).target.client("sagemaker"), name)
    if known is None:
        raise missing(f"pipeline {name!r}")
    return {each["Name"]: each for each in json.loads(known["PipelineDefinition"]).get("Parameters") or []}


def is_stated(parameter: Mapping[str, Any], value: str) -> bool:
    """Return whether a field says something: an empty one stands for the default, but that of a text."""
    return bool(value) or (parameter.get("Type") == "String" and parameter.get("DefaultValue") == "")


def problems_of(request: Request, parameters: Mapping[str, Any], typed: Mapping[str, str]) -> dict[str, str]:
    """Return what is wrong with each value: by the definition, and for this project's pipeline by pipeline.yaml."""
    config, found = studio(request).config, {}
    for name, parameter in parameters.items():
        value = typed.get(name, "")
        try:
            value_of(parameter, value if is_stated(parameter, value) else None)
            if request.path_params["pipeline"] == config.pipeline.name and value:
                check_parameters(config, {name: value})
        except ParameterError as problem:
            found[name] = str(problem)
        except ValueError as problem:
            found[name] = f"It {problem}"
    return found


ROUTES = [Route("/start/{pipeline}", show), Route("/start/{pipeline}", start, methods=["POST"])]

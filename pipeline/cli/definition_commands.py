"""`definition` and `validate`: the compiled definition, and whether it and pipeline.yaml are right, without AWS."""

import json
from pathlib import Path

from pipeline.cli.invocation import Arguments, opened, placement_of
from pipeline.errors import DefinitionError, ProblemList
from pipeline.service.inputs import read_definition


def definition(arguments: Arguments) -> int:
    """Print the definition JSON."""
    project = opened(arguments)
    placement = placement_of(arguments, project.config)
    from pipeline.service.staging import definition_of

    print(definition_of(project, placement))
    return 0


def validate(arguments: Arguments) -> int:
    """Check pipeline.yaml and the compiled definition, or a given one."""
    try:
        validated(arguments)
    except ProblemList as found:
        if not arguments.json:
            raise
        print(json.dumps({"valid": False, "problems": found.problems}))
        return 2
    if arguments.json:
        print(json.dumps({"valid": True, "problems": []}))
    else:
        print(f"{arguments.definition or arguments.config}: no problem found.")
    return 0


def validated(arguments: Arguments) -> None:
    """Find the problems.

    Raises:
        ProblemList: all of them.
    """
    from pipeline.definition.check import check
    from pipeline.service.staging import definition_of

    if not arguments.definition:
        project = opened(arguments)
        definition_of(project, placement_of(arguments, project.config))
        return
    content = json.loads(read_definition(Path(arguments.definition)))
    if problems := check(content, local=arguments.target == "local"):
        raise DefinitionError(problems)

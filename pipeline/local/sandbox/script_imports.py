"""Which installed modules a Python script imports at its top, by itself or by modules beside it: read, not run."""

import ast
from collections.abc import Iterator
from pathlib import Path

READ_THEIR_JOB = ("sagemaker", "smdebug", "smdistributed")  # at import, from the environment: each job imports its own


def installed_imports(script: Path) -> list[str]:
    """Full names in the order of the statements; what stands in a function, an `if` or a `try` is not among them."""
    found: dict[str, None] = {}
    seen: set[Path] = set()
    waiting = [script]
    while waiting:
        file = waiting.pop(0)
        if file in seen:
            continue
        seen.add(file)
        for folder, name in imported_names(file, script.parent):
            own = own_files(folder, name)
            waiting.extend(own)
            if not own and folder == script.parent and not name.startswith(READ_THEIR_JOB):
                found[name] = None
    return list(found)


def imported_names(file: Path, top: Path) -> Iterator[tuple[Path, str]]:
    """(where an import begins to look, its dotted name); none for what is not Python, as a namespace package is."""
    try:
        body = ast.parse(file.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return
    for node in body:
        if isinstance(node, ast.Import):
            yield from ((top, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            folder = file.parents[node.level - 1] if node.level else top
            yield from ((folder, name) for name in ([node.module] if node.module else [a.name for a in node.names]))


def own_files(folder: Path, name: str) -> list[Path]:
    """The files that importing a name from a folder would run; empty for a module that lies elsewhere."""
    parts = name.split(".")
    paths = [folder.joinpath(*parts[:count]) for count in range(1, len(parts) + 1)]
    files = [file for path in paths for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()]
    return files or ([paths[0]] if paths[0].is_dir() else [])


def own_names(folder: Path) -> set[str]:
    """The modules and packages that lie in a folder."""
    return {entry.name.partition(".")[0] for entry in folder.iterdir()} if folder.is_dir() else set()

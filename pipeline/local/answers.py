"""What the local SageMaker's operations have in common: errors as the service gives them, lists, missing resources."""

from collections.abc import Callable, Iterable
from typing import Any

from pipeline.errors import PipelineError
from pipeline.local.state import Document, State


class RequestError(PipelineError):
    """A refused request: `code` as in the service's error responses."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


def invalid(message: str) -> RequestError:
    """ValidationException, which SageMaker gives for nearly everything."""
    return RequestError("ValidationException", message)


def found(state: State, kind: str, name: str, what: str) -> Document:
    """The document.

    Raises:
        RequestError: there is none.
    """
    document = state.get(kind, name)
    if document is None:
        raise invalid(f"Could not find {what} {name!r}.")
    return document


def unused(state: State, kind: str, name: str, what: str) -> None:
    """Make sure that a name is free.

    Raises:
        RequestError: it is taken.
    """
    if state.get(kind, name) is not None:
        raise invalid(f"Cannot create already existing {what} {name!r}.")


def listed(
    documents: Iterable[Document], request: Document, keep: Callable[[Document], bool] = lambda document: True
) -> list[Document]:
    """Filtered, in the order asked for (by creation; the service's default is descending), at most MaxResults."""
    kept = sorted((d for d in documents if keep(d)), key=lambda document: float(document["CreationTime"]))
    if request.get("SortOrder", "Descending") == "Descending":
        kept.reverse()
    return kept[: request.get("MaxResults", 100)]


def chosen(document: Document, *names: str) -> Document:
    """Some members of a document, where present."""
    return {name: document[name] for name in names if name in document}


Operation = Callable[[Any, Document], Document]

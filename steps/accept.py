"""Which of the endpoint's answer formats a request's Accept header asks for (RFC 9110, section 12.5.1)."""

from starlette.exceptions import HTTPException

LIST = "list"  # the class probabilities, in the order of the classes
VERBOSE = "verbose"  # label, score and the top five
JSON_TYPES = ("application/json", "application/*", "*/*")


def accepted_format(accept: str) -> str:
    """The format of the most wanted media type that can be answered; refused with 406 if there is none."""
    ranges = [_parse(text) for text in accept.split(",") if text.strip()] or [("*/*", {})]
    wanted = [
        (_quality(parameters), VERBOSE if parameters.get("verbose") == "1" else LIST)
        for media_type, parameters in ranges
        if media_type in JSON_TYPES
    ]
    quality, answer = max(wanted, key=lambda choice: choice[0], default=(0.0, LIST))
    if quality <= 0:
        raise HTTPException(
            406, f"Accept {accept} cannot be answered: ask for application/json or application/json;verbose=1."
        )
    return answer


def _parse(text: str) -> tuple[str, dict[str, str]]:
    """`application/json;verbose=1` -> ("application/json", {"verbose": "1"})."""
    media_type, *parameters = (part.strip().lower() for part in text.split(";"))
    pairs = (parameter.partition("=") for parameter in parameters)
    return media_type, {name.strip(): value.strip().strip('"') for name, _, value in pairs}


def _quality(parameters: dict[str, str]) -> float:
    try:
        return float(parameters.get("q", "1"))
    except ValueError:
        return 0.0

"""Pieces of HTML and text that the sections of report.html share."""


def section(title: str, body: str) -> str:
    """A part of the page under its heading."""
    return f"<section><h2>{title}</h2>{body}</section>"


def percent(share: float) -> str:
    """A share from 0 to 1 as a percentage with one decimal."""
    return f"{100 * share:.1f}\N{NARROW NO-BREAK SPACE}%"

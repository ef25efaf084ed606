"""Writes docs/configuration.md and docs/pipeline.schema.json from the models: `python -m pipeline.config.reference`."""

import json
import re
from collections.abc import Iterator

from pipeline.config.wording import Schema, accepted, section_of, whole_schema
from pipeline.paths import ROOT

UNIT = re.compile(r"_(seconds|days|minutes|ms|px|gb|mb|megabytes|megapixels|percent|per_minute|gb_month)$")
HEAD = """# Configuration

Every setting of `pipeline.yaml`, which need state only what differs from the default. Generated from
[sections.py](../pipeline/config/sections.py) by `python -m pipeline.config.reference`; `validate` reports every mistake
in the file at once, with its line. Editors that know YAML schemas complete and check it by
[pipeline.schema.json](pipeline.schema.json).
"""


def main() -> None:
    for name, text in pages().items():
        (ROOT / "docs" / name).write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """Return the text of each generated file by its name in docs/."""
    lines = [HEAD]
    for name, schema in whole_schema()["properties"].items():
        section = section_of(schema)
        lines += [f"## {name}", "", section["description"], "", "| setting | accepts | unit | default | |"]
        lines += ["|---|---|---|---|---|", *rows(name, section), ""]
    return {
        "configuration.md": "\n".join(lines),
        "pipeline.schema.json": json.dumps(whole_schema(), indent=1) + "\n",
    }


def rows(path: str, section: Schema) -> Iterator[str]:
    """Return a table's row for each setting of a section."""
    for name, schema in section.get("properties", {}).items():
        here, below = f"{path}.{name}", section_of(schema)
        unit = UNIT.search(name)
        cells = [
            f"`{here}`",
            accepted(schema),
            unit[1].replace("_", " ") if unit else "",
            f"`{text(schema['default'])}`",
        ]
        cells.append(schema.get("description") or below["description"])
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
        if "properties" in below:
            yield from rows(here, below)


def text(default: object) -> str:
    """Return a default as YAML has it, whole numbers without a point."""
    return re.sub(r"(\d)\.0\b", r"\1", json.dumps(default)).replace('"', "") if default != "" else "''"


if __name__ == "__main__":
    main()

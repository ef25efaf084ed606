"""What the pages say of the repository: links, settings, options and sentences that are there."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config.config import load
from tests.docs.pages import PAGES, ROOT, benchmark_lines, blocks

LANGUAGES = {"sh", "python", "yaml", "text", "diff"}
named = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def literals(folder: str) -> str:
    """Return every text in the code of a folder."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / folder).rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    return "\n".join(node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))


@named
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page.name}: {target}"
        assert not anchor or linked.suffix != ".md" or anchor in anchors(linked), f"{page.name}: {target}"


@named
def test_every_block_says_what_it_is(page):
    assert {block.language for block in blocks(page)} <= LANGUAGES
    outside = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert not re.search(r"^\s*(python|make|curl) \S+", outside, re.MULTILINE), "a command outside of a block"


@named
def test_benchmarks_have_the_options_that_a_page_gives_them(page):
    for words in benchmark_lines(page):
        text = (ROOT / words[1]).read_text(encoding="utf-8")
        shared = re.findall(r"^from (\w+) import", text, re.MULTILINE)
        text += "".join(path.read_text() for name in shared if (path := ROOT / "benchmarks" / f"{name}.py").exists())
        given = words[: words.index("--")] if "--" in words else words
        for option in (word for word in given if word.startswith("--")):
            assert f'"{option}"' in text, f"{page.name}: {' '.join(words)}"


@pytest.mark.parametrize(
    "block", [block for page in PAGES for block in blocks(page, "yaml")], ids=lambda block: f"{block.page}:{block.line}"
)
def test_settings_are_accepted(tmp_path, monkeypatch, block):
    for name in ("groups.csv", "attributes.csv", "corrections.csv"):
        (tmp_path / name).write_text("path,label\n")
    monkeypatch.chdir(tmp_path)
    settings = merged(yaml.safe_load((ROOT / "pipeline.yaml").read_text()), yaml.safe_load(block.text))
    Path("pipeline.yaml").write_text(yaml.safe_dump(settings))
    load(tmp_path / "pipeline.yaml")


def merged(settings: Any, more: Any) -> Any:
    """Return settings with those of a fragment."""
    if not isinstance(settings, dict) or not isinstance(more, dict):
        return more
    return settings | {name: merged(settings.get(name), value) for name, value in more.items()}


def test_where_names_files_and_what_they_hold():
    text = (ROOT / "docs/where.md").read_text(encoding="utf-8")
    for base, part in zip(*[iter(re.split(r"Paths [\w ]*start at `([^`]+)`", text)[1:])] * 2, strict=True):
        for row in re.findall(r"^\| [^|]+ \| (.+) \|$", part, re.MULTILINE):
            paths = re.findall(r"`([\w./-]+\.(?:py|html|css|yaml|json))`", row)
            folders, held = [ROOT / base, ROOT], ""
            for path in paths:
                place = next(filter(Path.is_file, (folder / path for folder in folders)), None)
                assert place, f"{path}: {row}"
                held += place.read_text(encoding="utf-8")
                folders.append(place.parent)  # another file "there"
            for name in re.findall(r"`([A-Za-z_]+)`", row):
                assert not paths or name in held, f"{name}: {row}"


def test_the_map_has_every_folder_of_the_repository():
    readme = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## The map\n")[2]
    folders = [path for place in (ROOT, ROOT / "pipeline") for path in place.iterdir() if path.is_dir()]
    for folder in folders:
        made_by_tools = folder.name.startswith((".", "_")) or folder.suffix == ".egg-info"
        if not made_by_tools and folder.name not in ("build", "docs", "pipeline"):
            assert f"`{folder.relative_to(ROOT)}`" in readme


def test_pictures_are_small():
    for picture in (ROOT / "docs" / "images").iterdir():
        assert picture.stat().st_size < 200_000, picture.name


def test_the_sentences_of_the_troubleshooting_table_are_the_programs():
    table = (
        (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Troubleshooting\n")[2].partition("\n## ")[0]
    )
    sentences = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    assert len(sentences) >= 9
    said = literals("pipeline") + literals("steps")
    for sentence in sentences:
        for part in sentence.split("…"):
            assert part.strip() in said, sentence

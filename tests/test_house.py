"""docs/architecture.md is true: it names what exists, and what it names exists."""

import re
from pathlib import Path

import pytest

import pocketpipe

SOURCES = Path(pocketpipe.__file__).parent
PROJECT = SOURCES.parents[1]
PAGE = (PROJECT / "docs" / "architecture.md").read_text()


def packages(folder: Path) -> set[str]:
    return {path.parent.name for path in folder.glob("*/__init__.py")}


def table_of_rooms() -> set[str]:
    section = PAGE.split("## Rooms")[1].split("\n## ")[0]
    return set(re.findall(r"\| `(\w+)` \|", section))


def test_every_room_and_no_other_is_in_the_table() -> None:
    assert table_of_rooms() == packages(SOURCES) - {"pipelines"}


def test_every_stage_and_no_other_is_in_the_picture() -> None:
    row = next(line for line in PAGE.splitlines() if "──►" in line)
    assert {stage.strip() for stage in row.split("──►")} == packages(SOURCES / "pipelines")


def test_every_value_in_the_table_is_a_class_of_a_top_level_module() -> None:
    section = PAGE.split("## Values")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| ") and "value" not in line[:9]]
    named = {name.strip() for row in rows for name in row.split(",")}
    defined = {name for file in SOURCES.glob("*.py") for name in re.findall(r"^class (\w+)", file.read_text(), re.M)}
    assert named
    assert named <= defined


PAGES = [*PROJECT.glob("*.md"), *PROJECT.glob("docs/**/*.md")]


def prose(page: Path) -> str:
    """The page without what stands in it as code."""
    return re.sub(r"`[^`\n]+`", lambda code: code[0].strip("`").replace("](", ""), fences_out(page.read_text()))


def fences_out(text: str) -> str:
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_code_in_the_docs_imports_is_there(page: Path) -> None:
    code = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    imports = [line for block in code for line in re.findall(r"^(?:from|import) [^(\n]*$", block, re.MULTILINE)]
    ours = [line for line in imports if line.split()[1].split(".")[0] == "pocketpipe"]
    exec("\n".join(ours), {})


def anchors(page: Path) -> set[str]:
    """As GitHub names headings: lower case, no punctuation, hyphens for spaces."""
    headings = re.findall(r"^#+ (.+)$", fences_out(page.read_text()), re.MULTILINE)
    shown = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in shown}


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(PROJECT))) for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", prose(page)):
        if re.match(r"\w+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_there_are_pages_with_links() -> None:
    assert len(PAGES) > 20
    assert sum(prose(page).count("](") for page in PAGES) > 50


def test_files_to_learn_from_exist() -> None:
    table = (PROJECT / "CONTRIBUTING.md").read_text().split("learn from |")[1].split("\n\n")[0]
    examples = re.findall(r"\| `([\w/.]+)` \|\n", table + "\n")
    assert examples
    for example in examples:
        assert (SOURCES / example).exists(), example

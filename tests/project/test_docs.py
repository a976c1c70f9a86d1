"""The documentation is correct: its examples run, its links work, its lists are complete."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import click
import jsonschema
import msgspec
import pytest
import tomli

from benchd.audit.refusals import CODES
from benchd.cli import main
from benchd.settings.keys import SECTIONS, FolderSettings
from benchd.settings.reading import parse_settings
from transcripts import EXAMPLE, followed

HERE = Path(__file__).parents[1]
TOP = HERE.parent
DOCS = TOP / "docs"
PAGES = sorted([*TOP.glob("*.md"), *DOCS.rglob("*.md"), *TOP.glob("systemd/*.md"), *TOP.glob("benchmarks/*.md")])
CONFIGURATION = DOCS / "configuration.md"
CONTRACT = DOCS / "spec.md"  # describes future changes, too
USING = DOCS / "using-the-config.md"
#: Their Python programs need PEFT; tests/interop runs them.
NEED_PEFT = {DOCS / "tutorial.md", USING, DOCS / "trainers.md"}
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)

#: Events that are never a warning or an error, so users need no help with them.
CALM = {
    "audit.deferred", "audit.ignored", "audit.unchanged", "run.finished", "scan.finished", "service.ready",
    "service.reloaded", "service.started", "service.stopped", "service.stopping", "watch.root_restored",
    "watch.started",
}  # fmt: skip


def fenced(page):
    """Return the fenced examples of a page, each with its language and its text."""
    return [(kind, code) for kind, _, code in EXAMPLE.findall(page.read_text(encoding="utf-8"))]


def named(page):
    """Return a page as a parameter with a readable name."""
    return pytest.param(page, id=str(page.relative_to(TOP)))


def examples(language, *pages):
    """Return each fenced example in `language`, as a parameter with its page and number as name."""
    return [
        pytest.param(code, id=f"{page.relative_to(TOP)}-{number}")
        for page in pages or PAGES
        if page != CONTRACT
        for number, (kind, code) in enumerate(fenced(page), 1)
        if kind == language
    ]


def anchors(page):
    """Return the anchors of a page's headings."""
    text = EXAMPLE.sub("", page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in HEADING.findall(text)}


def first_column(page, section):
    """Return the code at the beginning of each table row in a section of a page."""
    _, _, after = page.read_text(encoding="utf-8").partition(f"\n## {section}\n")
    return re.findall(r"^\| `([\w.]+)`", after.partition("\n## ")[0], re.MULTILINE)


def schema(name):
    return json.loads(files("benchd").joinpath(f"schemas/{name}.schema.json").read_text(encoding="utf-8"))


def documents(text):
    """Return the JSON values of a text that has one document, or one on each line."""
    try:
        return [json.loads(text)]
    except json.JSONDecodeError:
        return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a working folder with `inbox/audit.json` in it."""
    (tmp_path / "inbox").mkdir()
    shutil.copy(HERE / "audits" / "llama4_one__default.json", tmp_path / "inbox" / "audit.json")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_config_toml_holds_the_defaults():
    """The settings file at the top changes only the watched folder."""
    settings = parse_settings((TOP / "config.toml").read_text(encoding="utf-8"), base="/srv")
    assert settings.watch == (FolderSettings(path="/srv/inbox"),)
    for name, shape in SECTIONS.items():
        assert getattr(settings, name) == shape()


def test_config_toml_shows_every_key():
    """The settings file at the top contains every key of every section."""
    document = tomli.loads((TOP / "config.toml").read_text(encoding="utf-8"))
    watch = set(msgspec.structs.asdict(FolderSettings(path=""))) - {"selection", "bench"}
    assert set(document) == {"watch", *SECTIONS}
    assert set(document["watch"][0]) == watch
    for name, shape in SECTIONS.items():
        assert set(document[name]) == set(shape.__struct_fields__)


def test_configuration_page_names_every_key():
    """docs/configuration.md has a row for each key."""
    page = (TOP / "docs" / "configuration.md").read_text(encoding="utf-8")
    keys = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    expected = {"path", *msgspec.structs.asdict(FolderSettings(path=""))} - {"selection", "bench"}
    for shape in SECTIONS.values():
        expected |= set(shape.__struct_fields__)
    assert keys == expected


@pytest.mark.parametrize("code", examples("toml"))
def test_toml_examples_are_settings(code):
    """Each TOML example is valid if its base files contain the page's YAML example."""
    [yaml] = [code for kind, code in fenced(CONFIGURATION) if kind == "yaml"]
    parse_settings(code, read_file=lambda _: yaml.encode())


@pytest.mark.parametrize("code", examples("python", *(page for page in PAGES if page not in NEED_PEFT)))
def test_python_examples_run(code, folder):
    """Each Python example runs as it stands, in a folder with `inbox/audit.json`."""
    (folder / "example.py").write_text(code, encoding="utf-8")
    done = subprocess.run([sys.executable, "example.py"], capture_output=True, text=True, check=False, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("code", examples("json", TOP / "docs" / "formats.md"))
def test_file_examples_fit_their_schemas(code):
    """The config and the error report in docs/formats.md are complete and match the schemas."""
    document = json.loads(code)
    name = "error-report" if "code" in document else "config"
    jsonschema.validate(document, schema(name), cls=jsonschema.Draft202012Validator)


@pytest.mark.parametrize("code", examples("json", TOP / "docs" / "trail.md"))
def test_trail_examples_fit_their_schema(code):
    """Each record in docs/trail.md matches the schema."""
    for record in documents(code):
        jsonschema.validate(record, schema("trail-record"), cls=jsonschema.Draft202012Validator)


def test_config_example_is_what_the_library_makes(folder):
    """The config in docs/formats.md is, byte for byte, the one that benchd writes for the audit today."""
    subprocess.run([sys.executable, "-m", "benchd", "run", "inbox"], check=True, capture_output=True)
    page = (TOP / "docs" / "formats.md").read_text(encoding="utf-8")
    assert (folder / "inbox" / "audit.bench.json").read_text(encoding="utf-8") in page


@pytest.mark.slow
@pytest.mark.parametrize("page", [named(page) for page in PAGES if "console" in dict(fenced(page))])
def test_sessions_print_what_the_page_shows(page, tmp_path):
    """Each console example of a page shows the real output of its command; `tests/transcripts.py` updates it."""
    text = page.read_text(encoding="utf-8")
    assert followed(text, tmp_path) == text


@pytest.mark.parametrize("code", examples("sh"))
def test_commands_parse(code):
    """Each `benchd` command in a shell example has only options and arguments that exist."""
    for line in re.findall(r"^benchd [^|>&\n]*", code, re.MULTILINE):
        _, name, *arguments = shlex.split(line, comments=True)
        command = main.get_command(click.Context(main), name)
        assert command is not None
        command.make_context(name, arguments)


def test_every_command_is_documented():
    """docs/commands.md shows the help of each command."""
    shown = {
        command for kind, code in fenced(DOCS / "commands.md") if kind == "console" for command in code.split("\n")
    }
    names = main.list_commands(click.Context(main))
    assert {f"$ benchd {name} --help" for name in names} <= shown


def test_exports_in_the_docs_are_real(tmp_path):
    """The parts of a config and of an export in docs/using-the-config.md are in the real ones."""
    shutil.copy(HERE / "audits" / "distilbert_seqcls__default.json", tmp_path / "audit.json")
    [toml] = [code for kind, code in fenced(USING) if kind == "toml"]
    (tmp_path / "config.toml").write_text(toml, encoding="utf-8")
    settings = ["--config", tmp_path / "config.toml"]
    run = [sys.executable, "-m", "benchd"]
    subprocess.run([*run, "run", tmp_path / "audit.json", *settings], check=True, capture_output=True)
    peft = subprocess.run([*run, "export", tmp_path / "audit.json", "--peft"], check=True, capture_output=True).stdout
    lora, exported = [json.loads(code) for kind, code in fenced(USING) if kind == "json"]
    config = json.loads((tmp_path / "audit.bench.json").read_text(encoding="utf-8"))
    assert lora == {**config["lora"]}
    made = json.loads(peft)
    assert len(made.pop("target_modules")) == 24
    assert exported == made


def test_every_event_is_documented():
    """docs/trail.md names every event of the trail's schema."""
    page = (TOP / "docs" / "trail.md").read_text(encoding="utf-8")
    events = schema("trail-record")["properties"]["event"]["enum"]
    assert [event for event in events if event not in page] == []


def test_every_rejection_code_is_documented():
    """docs/selection.md and docs/troubleshooting.md have a row for each code."""
    page = (DOCS / "selection.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \| ⏳? ?\|", page, re.MULTILINE)) == set(CODES)
    assert sorted(first_column(DOCS / "troubleshooting.md", "A file was rejected")) == sorted(CODES)


def test_every_warning_is_explained():
    """docs/troubleshooting.md has a row for each event that can be a warning or an error."""
    events = set(schema("trail-record")["properties"]["event"]["enum"])
    rows = set(first_column(DOCS / "troubleshooting.md", "Warnings and errors in the trail"))
    assert events >= CALM
    assert rows == events - CALM


@pytest.mark.parametrize("page", [named(page) for page in PAGES])
def test_links_lead_somewhere(page):
    """Each relative link leads to an existing file or folder, and to an existing heading."""
    broken = []
    for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        file = page.parent / target if target else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(f"{target}#{anchor}")
    assert broken == []


@pytest.mark.parametrize("page", [*map(named, PAGES), *map(named, sorted(HERE.glob("*/INDEX.md")))])
def test_lines_wrap(page):
    """A line of prose has at most 100 columns; tables, fenced examples and lines without a space may be longer."""
    text = re.sub(r"^```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    long = [line for line in text.splitlines() if len(line) > 100 and " " in line.strip("-* ")]
    assert [line for line in long if not line.lstrip().startswith("|")] == []


def test_glossary_is_sorted():
    """The glossary lists each term once, in alphabetical order."""
    terms = re.findall(r"^## (.*)$", (DOCS / "glossary.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert terms == sorted(set(terms), key=str.lower)

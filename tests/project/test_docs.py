"""What the documentation says is so: its examples are run, its settings are the defaults."""

import json
import re
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import jsonschema
import msgspec
import pytest
import tomli

from benchd.audit.refusals import CODES
from benchd.settings.keys import FolderSettings, Settings
from benchd.settings.reading import parse_settings

HERE = Path(__file__).parents[1]
TOP = HERE.parent
PAGES = sorted([*TOP.glob("*.md"), *TOP.glob("docs/*.md"), *TOP.glob("systemd/*.md"), *TOP.glob("benchmarks/*.md")])
CONFIGURATION = TOP / "docs" / "configuration.md"
CONTRACT = TOP / "docs" / "spec.md"  # says what is to come, too
USING = TOP / "docs" / "using-the-config.md"  # its programs need PEFT and Bench; tests/interop runs them
TRAINERS = TOP / "docs" / "trainers.md"  # as do those on this page
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(#[^)\s]*)?\)")


def examples(language, *pages):
    """Each fenced example in `language`, as a parameter named by its page and number."""
    return [
        pytest.param(code, id=f"{page.relative_to(TOP)}-{number}")
        for page in pages or PAGES
        if page != CONTRACT
        for number, (kind, code) in enumerate(FENCE.findall(page.read_text(encoding="utf-8")), 1)
        if kind == language
    ]


def schema(name):
    return json.loads(files("benchd").joinpath(f"schemas/{name}.schema.json").read_text(encoding="utf-8"))


def documents(text):
    """One JSON document, or one on each line."""
    try:
        return [json.loads(text)]
    except json.JSONDecodeError:
        return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with `inbox/audit.json` in it."""
    (tmp_path / "inbox").mkdir()
    shutil.copy(HERE / "audits" / "llama4_one__default.json", tmp_path / "inbox" / "audit.json")
    monkeypatch.chdir(tmp_path)
    return tmp_path


SECTIONS = {"watching": Settings().watching, "selection": Settings().selection, "bench": Settings().bench}
SECTIONS["trail"] = Settings().trail


def test_config_toml_holds_the_defaults():
    """The settings file at the top changes nothing but which folder is watched."""
    settings = parse_settings((TOP / "config.toml").read_text(encoding="utf-8"), base="/srv")
    assert settings.watch == (FolderSettings(path="/srv/inbox"),)
    for name, section in SECTIONS.items():
        assert getattr(settings, name) == section


def test_config_toml_shows_every_key():
    """Every key of every section stands in the settings file at the top."""
    document = tomli.loads((TOP / "config.toml").read_text(encoding="utf-8"))
    watch = set(msgspec.structs.asdict(FolderSettings(path=""))) - {"selection", "bench"}
    assert set(document) == {"watch", *SECTIONS}
    assert set(document["watch"][0]) == watch
    for name, section in SECTIONS.items():
        assert set(document[name]) == set(msgspec.structs.asdict(section))


def test_configuration_page_names_every_key():
    """docs/configuration.md has a row for each key."""
    page = (TOP / "docs" / "configuration.md").read_text(encoding="utf-8")
    keys = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    expected = {"path", *msgspec.structs.asdict(FolderSettings(path=""))} - {"selection", "bench"}
    for section in SECTIONS.values():
        expected |= set(msgspec.structs.asdict(section))
    assert keys == expected


@pytest.mark.parametrize("code", examples("toml"))
def test_toml_examples_are_settings(code):
    """Each TOML example is valid settings, if the base files that it names hold the page's YAML example."""
    [(_, yaml)] = [
        example for example in FENCE.findall(CONFIGURATION.read_text(encoding="utf-8")) if example[0] == "yaml"
    ]
    parse_settings(code, read_file=lambda _: yaml.encode())


@pytest.mark.parametrize("code", examples("python", *(page for page in PAGES if page not in {USING, TRAINERS})))
def test_python_examples_run(code, folder):
    """Each Python example runs as it stands, in a folder with `inbox/audit.json`."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("code", examples("json", TOP / "docs" / "formats.md"))
def test_file_examples_fit_their_schemas(code):
    """The config and the error report in docs/formats.md are whole, and as the schemas say."""
    document = json.loads(code)
    name = "error-report" if "code" in document else "config"
    jsonschema.validate(document, schema(name), cls=jsonschema.Draft202012Validator)


@pytest.mark.parametrize("code", examples("json", TOP / "docs" / "trail.md"))
def test_trail_examples_fit_their_schema(code):
    """Each record in docs/trail.md is as the schema says."""
    for record in documents(code):
        jsonschema.validate(record, schema("trail-record"), cls=jsonschema.Draft202012Validator)


def test_config_example_is_what_the_library_makes(folder):
    """The config in docs/formats.md is, byte for byte, the one that benchd makes of the audit today."""
    subprocess.run([sys.executable, "-m", "benchd", "run", "inbox"], check=True, capture_output=True)
    page = (TOP / "docs" / "formats.md").read_text(encoding="utf-8")
    assert (folder / "inbox" / "audit.bench.json").read_text(encoding="utf-8") in page


def test_explained_audit_is_real():
    """The command in README.md prints what README.md shows, except for spaces at the ends of lines."""
    page = (TOP / "README.md").read_text(encoding="utf-8")
    [console] = [code for kind, code in FENCE.findall(page) if kind == "console"]
    command, _, shown = console.partition("\n")
    arguments = command.removeprefix("$ benchd ").split()
    done = subprocess.run([sys.executable, "-m", "benchd", *arguments], check=True, capture_output=True, cwd=TOP)
    assert [line.rstrip() for line in done.stdout.decode().splitlines()] == shown.splitlines()


def test_exports_in_the_docs_are_real(tmp_path):
    """What docs/using-the-config.md shows of a config and of an export is in them."""
    shutil.copy(HERE / "audits" / "distilbert_seqcls__default.json", tmp_path / "audit.json")
    page = USING.read_text(encoding="utf-8")
    [toml] = [code for kind, code in FENCE.findall(page) if kind == "toml"]
    (tmp_path / "config.toml").write_text(toml, encoding="utf-8")
    settings = ["--config", tmp_path / "config.toml"]
    run = [sys.executable, "-m", "benchd"]
    subprocess.run([*run, "run", tmp_path / "audit.json", *settings], check=True, capture_output=True)
    peft = subprocess.run([*run, "export", tmp_path / "audit.json", "--peft"], check=True, capture_output=True).stdout
    lora, exported = [json.loads(code) for kind, code in FENCE.findall(page) if kind == "json"]
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
    """docs/selection.md has a row for each code."""
    page = (TOP / "docs" / "selection.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \| ⏳? ?\|", page, re.MULTILINE)) == set(CODES)


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(TOP))) for page in PAGES])
def test_links_lead_somewhere(page):
    """Each relative link leads to a file or folder that is there."""
    targets = [target for target, _ in LINK.findall(page.read_text(encoding="utf-8")) if target]
    assert [target for target in targets if not (page.parent / target).exists()] == []

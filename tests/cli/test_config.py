"""`benchd config`: the active settings, each with its origin."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import Result

from commands import invoke


def config(*arguments: str | Path, environment: str = "") -> Result:
    """Run `benchd config` in this process."""
    return invoke("config", *arguments, settings=environment)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a settings file with a folder that has separate settings."""
    file = tmp_path / "config.toml"
    file.write_text(
        '[selection]\ntop_n = 5\n[[watch]]\npath = "inbox"\nbackend = "polling"\n[watch.bench]\nuniform_rank = 4\n',
        encoding="utf-8",
    )
    return file


def line(result: Result, key: str) -> str:
    """Return the line about `key`, with single spaces."""
    [found] = [text for text in result.output.splitlines() if text.startswith(f"{key} = ")]
    return " ".join(found.split())


def test_defaults():
    """Without a file every setting is its default, with the origin `default`."""
    result = config()
    assert result.exit_code == 0
    assert line(result, "selection.top_n") == "selection.top_n = 3 # default"
    assert line(result, "trail.file") == 'trail.file = "" # default'
    assert all(text.endswith("# default") for text in result.output.splitlines())


def test_origins(file: Path, tmp_path: Path):
    """Each setting has the file that it comes from, and a folder shows only its overrides."""
    result = config("--config", file)
    assert line(result, "selection.top_n") == f"selection.top_n = 5 # {file}"
    assert line(result, "selection.low_priority") == "selection.low_priority = 1.0 # default"
    assert line(result, "watch[0].path") == f'watch[0].path = "{tmp_path / "inbox"}" # {file}'
    assert line(result, "watch[0].backend") == f'watch[0].backend = "polling" # {file}'
    assert line(result, "watch[0].recursive") == "watch[0].recursive = true # default"
    assert line(result, "watch[0].bench.uniform_rank") == f"watch[0].bench.uniform_rank = 4 # {file}"
    assert "watch[0].bench.durable" not in result.output


def test_tables_for_bench(file: Path):
    """Each key of `[bench.base]` has its origin, and a folder shows only the keys that it sets."""
    assert line(config(), "bench.base") == "bench.base = {} # default"
    with file.open("a", encoding="utf-8") as text:
        text.write("base.train.learning_rate = 5e-5\n[bench.base]\nmodel = { name = 'm' }\nlora = { dropout = 0 }\n")
        text.write("task = { dataset = 'glue', subset = 'sst2', generation = { a = [1] } }\ntrain = { seed = 1 }\n")
    result = config("--config", file)
    assert line(result, "bench.base.model.name") == f'bench.base.model.name = "m" # {file}'
    assert line(result, "bench.base.task.generation") == f'bench.base.task.generation = {{"a": [1]}} # {file}'
    assert line(result, "watch[0].bench.base.train.learning_rate").endswith(f"= 5e-05 # {file}")
    assert "watch[0].bench.base.model" not in result.output
    assert "bench.base = " not in result.output


def test_environment(file: Path):
    """`BENCHD_CONFIG` names the file, unless the option does."""
    assert line(config(environment=str(file)), "selection.top_n").startswith("selection.top_n = 5")
    other = file.with_name("other.toml")
    other.write_text("", encoding="utf-8")
    assert line(config("--config", other, environment=str(file)), "selection.top_n").startswith("selection.top_n = 3")


def test_origin_in_the_environment(file: Path):
    """The origin of a setting says if `BENCHD_CONFIG` names the file."""
    found = line(config(environment=str(file)), "selection.top_n")
    assert found == f"selection.top_n = 5 # {file} (from BENCHD_CONFIG)"


def test_mistakes_in_the_environments_file(tmp_path: Path):
    """Messages about a file that `BENCHD_CONFIG` names say so, because the command line does not show its path."""
    file = tmp_path / "config.toml"
    result = config(environment=str(file))
    assert result.exit_code == 2
    assert result.stderr == f"{file} (from BENCHD_CONFIG): can't be read: No such file or directory\n"
    file.write_text("[selection]\ntop_n = -1\n", encoding="utf-8")
    result = config(environment=str(file))
    assert result.stderr == f"{file} (from BENCHD_CONFIG): selection.top_n: expected an integer >= 0, got -1\n"


def test_the_home_folder(file: Path):
    """`~` at the start of a path is the home folder."""
    file.write_text("[[watch]]\npath = '~/inbox'\n[trail]\nfile = '~/trail'", encoding="utf-8")
    result = config("--config", file)
    assert line(result, "watch[0].path") == f'watch[0].path = "{Path.home() / "inbox"}" # {file}'
    assert line(result, "trail.file") == f'trail.file = "{Path.home() / "trail"}" # {file}'


YAML = """\
bench_version: "0.1"
model: {name: m}
task: {dataset: glue, subset: sst2}
train: {seed: 42, lr: 5.0e-5}
lora: {dropout: 0.05}
"""


def test_base_file(tmp_path: Path):
    """Each key of a base file has its origin, and a folder with a separate file shows all its keys."""
    for name, content in [("general.yaml", YAML), ("own.yaml", YAML.replace("name: m", "name: own"))]:
        (tmp_path / name).write_text(content, encoding="utf-8")
    file = tmp_path / "config.toml"
    file.write_text(
        "[bench]\nbase_file = 'general.yaml'\nbase.train.seed = 1\n"
        "[[watch]]\npath = 'a'\n[watch.bench]\nbase_file = 'own.yaml'\n"
        "[[watch]]\npath = 'b'\n[watch.bench]\nbase_file = ''\n"
        "base = { model.name = 'm', task = { dataset = 'd', subset = 's' }, lora.dropout = 0 }\n",
        encoding="utf-8",
    )
    result = config("--config", file)
    general, own = tmp_path / "general.yaml", tmp_path / "own.yaml"
    assert line(result, "bench.base_file") == f'bench.base_file = "{general}" # {file}'
    assert line(result, "bench.base.bench_version") == f'bench.base.bench_version = "0.1" # {general}'
    assert line(result, "bench.base.train.lr") == f"bench.base.train.lr = 5e-05 # {general}"
    assert line(result, "bench.base.train.seed") == f"bench.base.train.seed = 1 # {file}"
    assert line(result, "watch[0].bench.base_file") == f'watch[0].bench.base_file = "{own}" # {file}'
    assert line(result, "watch[0].bench.base.model.name") == f'watch[0].bench.base.model.name = "own" # {own}'
    assert line(result, "watch[0].bench.base.train.seed") == f"watch[0].bench.base.train.seed = 1 # {file}"
    assert line(result, "watch[1].bench.base_file") == f'watch[1].bench.base_file = "" # {file}'
    assert line(result, "watch[1].bench.base.train.seed") == f"watch[1].bench.base.train.seed = 1 # {file}"
    assert "watch[1].bench.base.train.lr" not in result.output


def test_check_reads_the_base_file(tmp_path: Path):
    """Mistakes in a base file are reported together with those in the settings."""
    file = tmp_path / "config.toml"
    (tmp_path / "bench.yaml").write_text(YAML.replace("5.0e-5", "5e-5"), encoding="utf-8")
    file.write_text("[selection]\ntop_n = -1\n[bench]\nbase_file = 'bench.yaml'\n", encoding="utf-8")
    result = config("--check", file)
    assert result.exit_code == 2
    first, second = result.stderr.splitlines()
    assert first == f"{file}: selection.top_n: expected an integer >= 0, got -1"
    assert second.startswith(f"{tmp_path / 'bench.yaml'}: line 4: train.lr: expected a number above 0, ")
    assert second.endswith("; YAML reads 5e-5 as text: write 5.0e-5")


def test_check(file: Path):
    """The command prints that a correct file has no mistakes."""
    result = config("--check", file)
    assert (result.exit_code, result.output) == (0, f"{file}: no mistakes\n")


def test_check_finds_all(file: Path):
    """All mistakes are printed together on stderr, with exit code 2."""
    file.write_text('[selection]\ntop_n = "three"\n[trail]\nlevel = "loud"\n[nonsense]\n', encoding="utf-8")
    result = config("--check", file)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 3
    for text in result.stderr.splitlines():
        assert text.startswith(f"{file}: ")


@pytest.mark.parametrize(
    ("content", "expected"),
    [(None, "can't be read: No such file"), (b"\xff", "not UTF-8 at byte 0"), (b"[", "not valid TOML")],
)
@pytest.mark.parametrize("option", ["--check", "--config"])
def test_unusable_file(tmp_path: Path, option: str, content: bytes | None, expected: str):
    """A file that can't be read gives one mistake without a traceback."""
    file = tmp_path / "broken.toml"
    if content is not None:
        file.write_bytes(content)
    result = config(option, file)
    assert result.exit_code == 2
    assert expected in result.stderr
    assert len(result.stderr.splitlines()) == 1

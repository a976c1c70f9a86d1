"""The benchmarks run, and compute their results correctly."""

import json
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from corpus import checked
from daemon import DESIGN

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

SHORT = {
    "latency": ["--seconds", "0.1", "--repeats", "1"],
    "burst": ["--count", "20", "--repeats", "1"],
    "backlog": ["--count", "3", "--repeats", "1"],
    "growth": ["--sizes", "3,6", "--repeats", "1"],
    "large": ["--repeats", "1"],
    "startup": ["--repeats", "1"],
    "idle": ["--seconds", "0.1"],
    "peers": ["--count", "20", "--scripts", "1", "--repeats", "1"],
    "syscalls": ["--count", "2"],
    "parts": ["--count", "2", "--pause", "0.1"],
    "hops": ["--count", "2", "--by", "order"],
    "fairness": ["--seconds", "0.1", "--repeats", "1"],
}


def run(script, *arguments, code=0, place):
    """Run a benchmark, check that it leaves no file, and return its output."""
    place.mkdir(exist_ok=True)
    # Coverage in child processes would slow them down, and other tests cover that code.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COVERAGE_")}
    done = subprocess.run(
        [sys.executable, BENCHMARKS / f"{script}.py", *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=100, env={**environment, "TMPDIR": str(place)},
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    assert not list(place.iterdir())
    return done.stdout


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    """The modules of the benchmarks can be imported."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.syspath_prepend(BENCHMARKS / "peers")


@pytest.mark.parametrize("script", SHORT)
def test_runs(script, tmp_path):
    """A short form of each benchmark prints and saves its rows, with figures or a note that explains their absence."""
    import findings

    results = tmp_path / "results.json"
    printed = run(script, *SHORT[script], "--results", results, place=tmp_path / "tmp")
    found = findings.load(results)[script].found
    rows = [item for item in found if isinstance(item, findings.Row)]
    assert rows
    for row in rows:
        assert f"| {row.what} |" in printed
        assert row.note or all(figure > 0 for figure in row.reference or [1])
        assert row.benchd or row.note
    lost = [row.benchd for row in rows if "not answered" in row.what]
    assert all(count == 0 for counts in lost for count in counts)


def test_make_bench_runs_all():
    """`make bench` runs every benchmark."""
    makefile = (BENCHMARKS.parent / "Makefile").read_text(encoding="utf-8")
    (line,) = (line for line in makefile.splitlines() if line.startswith("BENCHMARKS :="))
    assert line.split()[2:] == list(SHORT)


def test_a_target_is_held_against_the_median_of_the_ratios():
    """The ratio is computed within each repeat, minus the slack; without a reference the figure itself counts."""
    from findings import Row

    pairs = {"benchd": [3.0, 20.0, 5.0], "reference": [1.0, 10.0, 4.0]}
    assert Row("r", "ms", **pairs).ratio == 2.0
    assert Row("r", "ms", **pairs, most=2.0).met is True
    assert Row("r", "ms", **pairs, most=1.9).met is False
    assert Row("r", "ms", **pairs, least=2.1).met is False
    assert Row("r", "ms", **pairs, most=1.9, slack=1.0).met is True
    assert Row("r", "ms", [1.0, 2.0, 9.0], most=2.0).met is True
    assert Row("r", "ms", [1.0, 2.0, 9.0], most=1.9).met is False
    assert Row("r", "ms", [1.0]).met is None
    assert Row("r", most=1.0, note="not here").met is None


def test_the_report_shows_targets_and_plots(tmp_path):
    """The report writes rows, verdicts and plots between its marks, and keeps the rest of the page."""
    import findings
    import msgspec

    docs, results = tmp_path / "docs", tmp_path / "results.json"
    docs.mkdir()
    shutil.copy(BENCHMARKS.parent / "docs" / "performance.md", docs)
    intro = (docs / "performance.md").read_text(encoding="utf-8").partition("<!--")[0]
    rows = [
        findings.Row("quick", "ms", [1.0], "floor", [1.0], most=2.0),
        findings.Row("slow", "ms", [9.0], "floor", [1.0], most=2.0),
        findings.Row("elsewhere", note="needs strace"),
    ]
    curve = findings.Curve("latency", "a < b", [(0.1, 5.0), (2.0, 50.0), (30.0, 99.5)])
    found = findings.Findings("Latency: how long.", {"system": "Linux", "load": "1"}, [*rows, curve])
    without_plot = findings.Findings("Idle: nothing.", {"system": "Linux", "load": "2"}, rows[:1])
    results.write_bytes(msgspec.json.encode({"latency": found, "idle": without_plot}))
    for _ in range(2):  # a second run replaces the block
        run("report", "--results", results, "--docs", docs, place=tmp_path / "tmp")
    page = (docs / "performance.md").read_text(encoding="utf-8")
    assert page.startswith(intro)
    assert page.count("2 of 3 targets are met") == 1
    assert page.partition("<!-- from")[2].partition("<!-- to")[0].count("## ") == 2
    assert page.count("Measured on Linux.") == 1
    assert page.count("Load 1.") == page.count("Load 2.") == 1
    assert "| quick | ms | 1 | floor: 1 | 1 × | ≤ 2 × | met |" in page
    assert "| 9 × | ≤ 2 × | **not met** |" in page
    assert "| needs strace |" in page
    assert "(performance-latency.svg)" in page
    drawn = ET.parse(docs / "performance-latency.svg").getroot()
    assert [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")].count("a < b") == 1
    assert json.loads((docs / "performance.json").read_bytes())["latency"]["facts"]["system"] == "Linux"


def test_compare_takes_noise_into_account():
    """A checkout is slower if it is slower in nearly every pair, not because of one outlier."""
    from compare import interval, slower

    assert slower([1.2, 1.15, 1.3, 1.25, 1.18, 1.22], 1.1)
    assert not slower([1.02, 1.03, 1.04, 1.02, 1.03, 1.05], 1.1)  # certainly slower, but by too little
    assert not slower([0.7, 1.2, 0.9, 1.4, 0.8, 1.3, 1.2, 1.15], 1.1)  # noise
    assert not slower([1.5, 1.5, 1.5], 1.1)  # three pairs are too few
    assert interval([6.0, 1.0, 2.0, 5.0, 3.0, 4.0]) == (1.0, 6.0)
    assert interval([float(number) for number in range(1, 11)]) == (2.0, 9.0)


def test_compare_runs(tmp_path):
    """A short form measures both checkouts and prints their ratios."""
    root = BENCHMARKS.parent
    short = ["--repeats", 1, "--count", 2, "--seconds", 0.05, "--threshold", 1000, "--python", sys.executable]
    printed = run("compare", root, root, *short, place=tmp_path / "tmp")
    assert printed.count("0 to inf") == 6


def test_the_peers_choose_as_benchd_does():
    """The peers choose the same strategy, layers and ranks as benchd for the design's audits."""
    import golden

    import benchd

    for file in DESIGN.glob("*.json"):
        theirs = golden.bench_config(json.loads(file.read_bytes()))
        audit = benchd.read_audit(file.read_bytes())
        ours = checked(benchd.bench_config(audit, benchd.select(audit)))
        assert theirs["selection"]["strategy"] == ours["selection"]["strategy"]
        for key in ("layer_name", "priority", "validation"):
            assert [x[key] for x in theirs["selection"]["layers"]] == [x[key] for x in ours["selection"]["layers"]]
        assert [x.get("rank_pattern") for x in theirs["compression_strategies"]] == [
            x.get("rank_pattern") for x in ours["compression_strategies"]
        ]

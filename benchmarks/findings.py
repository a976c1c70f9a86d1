"""Results of a benchmark: figures with their targets, curves and tables, printed and saved for the report."""

import argparse
import statistics
import sys
from pathlib import Path

import measuring
import msgspec


class Row(msgspec.Struct, omit_defaults=True, tag=True):
    """One figure of benchd: a value and a reference value for each repeat.

    `most` and `least` bound the ratio to the reference, after `slack` is subtracted from benchd's value. Without a
    reference they bound the value itself. A row without figures gives the reason in `note`.
    """

    what: str
    unit: str = ""
    benchd: list[float] = []
    against: str = ""
    reference: list[float] = []
    most: float | None = None
    least: float | None = None
    slack: float = 0.0
    note: str = ""

    @property
    def ratio(self):
        """The median of the ratios of all repeats: a disturbance in one repeat affects both values."""
        if not self.reference:
            return None
        pairs = zip(self.benchd, self.reference, strict=True)
        return statistics.median((ours - self.slack) / theirs for ours, theirs in pairs)

    @property
    def met(self):
        """Whether the target is met; None without a target or a figure."""
        if not self.benchd or self.most is self.least is None:
            return None
        figure = statistics.median(self.benchd) if self.ratio is None else self.ratio
        return figure <= self.most if self.most is not None else figure >= self.least

    @property
    def target(self):
        """The target as text."""
        if self.most is self.least is None:
            return ""
        sign, limit = ("≤", self.most) if self.most is not None else ("≥", self.least)
        text = f"{sign} {limit:g} {'×' if self.against else self.unit}"
        return text + (f" + {self.slack:g} {self.unit}" if self.slack else "")

    @property
    def cells(self):
        """The cells of a Markdown table row, under `HEADERS`."""
        ratio = "" if self.ratio is None else f"{figure(self.ratio)} ×"
        verdict = [] if self.met is None else ["met" if self.met else "**not met**"]
        last = "; ".join([*verdict, *[self.note] * bool(self.note)])
        reference = f"{self.against}: {spread(self.reference)}" if self.reference else ""
        return [self.what, self.unit, spread(self.benchd), reference, ratio, self.target, last]


HEADERS = ["what", "unit", "benchd", "reference", "ratio", "target", ""]


class Curve(msgspec.Struct, tag=True):
    """A line in the chart `chart`."""

    chart: str
    name: str
    points: list[tuple[float, float]]


class Table(msgspec.Struct, tag=True):
    """Figures without targets."""

    title: str
    headers: list[str]
    rows: list[list[str]]


class Findings(msgspec.Struct):
    """All results of one benchmark, and facts about the machine."""

    about: str
    facts: dict[str, str]
    found: list[Row | Curve | Table]


def load(path):
    """Return the findings in a results file, by benchmark."""
    path = Path(path)
    return msgspec.json.decode(path.read_bytes(), type=dict[str, Findings]) if path.exists() else {}


def short(value):
    """Return a number with four significant digits; the others are noise."""
    return float(f"{value:.4g}")


def figure(value):
    """Return a number as text with three significant digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(values):
    """Return the median as text, with the smallest and the largest value in brackets."""
    if not values:
        return ""
    middle = figure(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({figure(min(values))} to {figure(max(values))})"


def percentile(ordered, share):
    """Return the value at the quantile `share` of the sorted values."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def markdown(headers, rows):
    """Return a Markdown table."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def shown(findings):
    """Return the rows and tables of one benchmark as Markdown."""
    rows = [item.cells for item in findings.found if isinstance(item, Row)]
    tables = [item for item in findings.found if isinstance(item, Table)]
    return "\n\n".join([markdown(HEADERS, rows), *(f"{it.title}\n\n{markdown(it.headers, it.rows)}" for it in tables)])


def main(about, measure, **options):
    """Run a benchmark from the command line, print its results as tables, and save them if asked to.

    Each of `options` is a default and a help text. `measure(place, options)` yields rows, curves and tables; `place` is
    an empty folder.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, (default, meaning) in options.items():
        if default is False:
            parser.add_argument(f"--{name}", action="store_true", help=meaning)
        else:
            parser.add_argument(f"--{name}", type=type(default), default=default, help=f"{meaning} ({default})")
    parser.add_argument("--dir", help="parent of the working folder (the system's temporary folder)")
    parser.add_argument("--keep", action="store_true", help="keep the working folder")
    parser.add_argument("--results", help="a JSON file to add the results to")
    chosen = parser.parse_args()
    with measuring.workplace(chosen.dir, keep=chosen.keep) as place:
        found = list(measure(place, chosen))
        for item in found:
            if isinstance(item, Row):
                item.benchd, item.reference = [*map(short, item.benchd)], [*map(short, item.reference)]
        findings = Findings(about.splitlines()[0], measuring.facts(place), found)
    print(f"{findings.about}\n\n{shown(findings)}\n\n" + "; ".join(findings.facts.values()) + "\n", flush=True)
    if chosen.results:
        everything = {**load(chosen.results), Path(sys.argv[0]).stem: findings}
        Path(chosen.results).write_bytes(msgspec.json.encode(everything) + b"\n")

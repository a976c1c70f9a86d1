"""What a benchmark finds: figures beside their targets, curves and tables; printed, and kept for the report."""

import argparse
import statistics
import sys
from pathlib import Path

import measuring
import msgspec


class Row(msgspec.Struct, omit_defaults=True, tag=True):
    """One figure of benchd: a value for each repeat, and the reference from the same repeats.

    The target is `most` or `least` times the reference, plus `slack`. Without a reference it is in units. A row without
    figures says why in `note`.
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
        """The median of the ratios of each repeat: what disturbs a repeat disturbs both of its halves."""
        if not self.reference:
            return None
        pairs = zip(self.benchd, self.reference, strict=True)
        return statistics.median((ours - self.slack) / theirs for ours, theirs in pairs)

    @property
    def met(self):
        """Whether the target is met; None if there is none, or no figure."""
        if not self.benchd or self.most is self.least is None:
            return None
        figure = statistics.median(self.benchd) if self.ratio is None else self.ratio
        return figure <= self.most if self.most is not None else figure >= self.least

    @property
    def target(self):
        """The target in words."""
        if self.most is self.least is None:
            return ""
        sign, limit = ("≤", self.most) if self.most is not None else ("≥", self.least)
        text = f"{sign} {limit:g} {'×' if self.against else self.unit}"
        return text + (f" + {self.slack:g} {self.unit}" if self.slack else "")

    @property
    def cells(self):
        """The row of a Markdown table, under `HEADERS`."""
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
    """Figures that have no target."""

    title: str
    headers: list[str]
    rows: list[list[str]]


class Findings(msgspec.Struct):
    """All that one benchmark found, and on what machine."""

    about: str
    facts: dict[str, str]
    found: list[Row | Curve | Table]


def load(path):
    """The findings in a results file, by benchmark."""
    path = Path(path)
    return msgspec.json.decode(path.read_bytes(), type=dict[str, Findings]) if path.exists() else {}


def short(value):
    """A number without the digits that are noise."""
    return float(f"{value:.4g}")


def figure(value):
    """A number with three digits that mean something."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(values):
    """The median, with the least and the largest in brackets."""
    if not values:
        return ""
    middle = figure(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({figure(min(values))} to {figure(max(values))})"


def percentile(ordered, share):
    """The value below which `share` of the ordered values lie."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def markdown(headers, rows):
    """A Markdown table."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def shown(findings):
    """The rows and tables of one benchmark, as Markdown."""
    rows = [item.cells for item in findings.found if isinstance(item, Row)]
    tables = [item for item in findings.found if isinstance(item, Table)]
    return "\n\n".join([markdown(HEADERS, rows), *(f"{it.title}\n\n{markdown(it.headers, it.rows)}" for it in tables)])


def main(about, measure, **options):
    """Run the command line of a benchmark, and print what it finds as a table.

    `options` has the default and the meaning of each option. `measure(place, options)` yields rows, curves and tables;
    `place` is an empty folder.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, (default, meaning) in options.items():
        if default is False:
            parser.add_argument(f"--{name}", action="store_true", help=meaning)
        else:
            parser.add_argument(f"--{name}", type=type(default), default=default, help=f"{meaning} ({default})")
    parser.add_argument("--dir", help="where to make the folders (the system's place for temporary files)")
    parser.add_argument("--keep", action="store_true", help="leave the folders there")
    parser.add_argument("--results", help="a file to keep what was found in, beside what other benchmarks found")
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

"""Write the results of the benchmarks into docs/performance.md, with plots and a JSON file of the figures beside it."""

import argparse
import shutil
import textwrap
from pathlib import Path

import findings
import measuring
import plot

_BEGIN, _END = "<!-- from here on written by benchmarks/report.py -->", "<!-- to here -->"
_CHARTS = {
    "latency": ("From close() to config", "milliseconds", "% of the drops, at most that long"),
    "growth": ("Audits in one folder", "audits in the folder", "audits/s"),
}


def _charts(results, folder):
    """Write the plots, and return the line of Markdown for each, by benchmark."""
    lines = {}
    for name, found in results.items():
        curves = {item.name: item.points for item in found.found if isinstance(item, findings.Curve)}
        if curves:
            file = folder / f"performance-{name}.svg"
            file.write_text(plot.chart(*_CHARTS[name], curves), encoding="utf-8")
            lines[name] = f"![{_CHARTS[name][0]}]({file.name})"
    return lines


def _wrapped(text):
    """A paragraph in lines of 100 columns."""
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)


def render(results, charts):
    """Return the generated part of the page."""
    rows = [row for found in results.values() for row in found.found if isinstance(row, findings.Row)]
    met = [row.met for row in rows if row.met is not None]
    facts = [list(found.facts.values()) for found in results.values()]
    common = [fact for fact in facts[0] if all(fact in others for others in facts)]
    parts = [_wrapped(f"{met.count(True)} of {len(met)} targets are met. Measured on {'; '.join(common)}.")]
    for name, found in results.items():
        heading, _, rest = found.about.partition(": ")
        command = f"`benchmarks/{name}.py`"
        parts += [f"## {heading}", _wrapped(f"{rest[:1].upper()}{rest[1:]} {command}")]
        if name in charts:
            parts.append(charts[name])
        own = [f"{name} {fact}" for name, fact in found.facts.items() if fact not in common]
        parts += [findings.shown(found), _wrapped("; ".join(own).capitalize() + ".")]
    return "\n\n".join(parts)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=measuring.HERE / "results.json")
    parser.add_argument("--docs", type=Path, default=measuring.HERE.parent / "docs", help="the folder of the page")
    options = parser.parse_args()
    results, page = findings.load(options.results), options.docs / "performance.md"
    if not results:
        raise SystemExit(f"{options.results}has no results; run `make bench`")
    text = page.read_text(encoding="utf-8")
    before, found, rest = text.partition(_BEGIN)
    if not found or _END not in rest:
        raise SystemExit(f"{page}lacks the marks {_BEGIN} and {_END}")
    generated = render(results, _charts(results, options.docs))
    page.write_text(f"{before}{_BEGIN}\n\n{generated}\n\n{_END}{rest.partition(_END)[2]}", encoding="utf-8")
    shutil.copyfile(options.results, options.docs / "performance.json")


if __name__ == "__main__":
    main()

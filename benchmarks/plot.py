"""Draw a line chart as SVG, with a logarithmic x axis, a y axis from 0 and a legend."""

import math
from html import escape

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 760, 380, 70, 230, 40, 50
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # colours for colour-blind readers too


def _step(largest):
    """Return the distance of the marks on the y axis: 1, 2 or 5 times a power of ten, for about five marks."""
    power = 10.0 ** math.floor(math.log10(largest / 5))
    return next(step * power for step in (1, 2, 5, 10) if largest / (step * power) <= 6)


def chart(title, x_label, y_label, curves):
    """Return the SVG of `curves`: points by name. Every x must be above 0."""
    points = [point for line in curves.values() for point in line]
    low = math.floor(math.log10(min(x for x, _ in points)))
    high = max(math.ceil(math.log10(max(x for x, _ in points))), low + 1)
    step = _step(max(y for _, y in points))
    top = math.ceil(max(y for _, y in points) / step) * step

    def x_of(value):
        return _LEFT + (math.log10(value) - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def y_of(value):
        return _HEIGHT - _BOTTOM - value / top * (_HEIGHT - _TOP - _BOTTOM)

    def text(x, y, words, more='text-anchor="middle"'):
        return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{escape(words)}</text>'

    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}">',
        "<style>text { font: 12px sans-serif }</style>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        text(_LEFT, 22, title, ""),
        text((_LEFT + right) / 2, _HEIGHT - 10, x_label),
        text(
            16, (_TOP + bottom) / 2, y_label, f'text-anchor="middle" transform="rotate(-90 16 {(_TOP + bottom) / 2})"'
        ),
    ]
    grid = '<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" stroke="#ddd"/>'
    for decade in range(low, high + 1):
        x = x_of(10.0**decade)
        parts += [grid.format(x, _TOP, x, bottom), text(x, bottom + 18, f"{10.0**decade:,.6g}")]
    for number in range(round(top / step) + 1):
        y = y_of(number * step)
        parts += [grid.format(_LEFT, y, right, y), text(_LEFT - 8, y + 4, f"{number * step:,.6g}", 'text-anchor="end"')]
    for number, (name, line) in enumerate(curves.items()):
        colour, y = _COLOURS[number % len(_COLOURS)], _TOP + 10 + number * 20
        path = " ".join(f"{x_of(x):.1f},{y_of(value):.1f}" for x, value in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        if len(line) < 20:
            parts += [f'<circle cx="{x_of(x):.1f}" cy="{y_of(y_):.1f}" r="3" fill="{colour}"/>' for x, y_ in line]
        parts.append(f'<rect x="{right + 16}" y="{y - 4}" width="18" height="4" fill="{colour}"/>')
        parts.append(text(right + 40, y + 3, name, ""))
    return "\n".join([*parts, "</svg>", ""])

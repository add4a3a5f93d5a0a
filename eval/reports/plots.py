"""Reliability and risk-coverage curves as SVG text; the page's styles colour them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SIZE = 240.0
LEFT, TOP = 38.0, 8.0


def reliability_svg(bins: Sequence[Mapping[str, Any]]) -> str:
    """Accuracy by confidence; bins as in a report's `reliability`, fractions."""
    most = max((item["n"] for item in bins), default=1)
    shapes = [f'<path d="M{_x(0)} {_y(0)}L{_x(1)} {_y(1)}" stroke="currentColor" '
              'stroke-dasharray="4 4" opacity=".5"/>']  # fmt: skip
    for item in bins:
        x, width = _x(item["from"]), (item["to"] - item["from"]) * SIZE
        height = item["accuracy"] * SIZE
        shapes.append(
            f'<rect x="{x:.1f}" y="{_y(item["accuracy"])}" width="{width - 1:.1f}" '
            f'height="{height:.1f}" class="bin" '
            f'opacity="{0.15 + 0.7 * item["n"] / most:.2f}"><title>{item["n"]} clips, confidence '
            f"{item['confidence']:.3f}, accuracy {item['accuracy']:.3f}</title></rect>"
        )
    points = " ".join(f"{_x(b['confidence'])},{_y(b['accuracy'])}" for b in bins)
    shapes.append(f'<polyline points="{points}" fill="none" class="bin" stroke-width="2"/>')
    return _frame(shapes, "confidence", "accuracy")


def risk_svg(curve: Sequence[Mapping[str, float]]) -> str:
    """Error rate by coverage; points as in a report's `risk.curve`, fractions."""
    points = " ".join(f"{_x(point['coverage'])},{_y(point['risk'])}" for point in curve)
    shapes = [f'<polyline points="{points}" fill="none" class="risk" stroke-width="2"/>']
    shapes += [
        f'<circle cx="{_x(p["coverage"])}" cy="{_y(p["risk"])}" r="3" class="risk"><title>'
        f"coverage {p['coverage']:.2f}: error {p['risk']:.3f}, from confidence "
        f"{p['threshold']:.3f}</title></circle>"
        for p in curve
    ]
    return _frame(shapes, "coverage", "error rate")


def _frame(shapes: Sequence[str], x_title: str, y_title: str) -> str:
    parts = [
        f'<rect x="{LEFT}" y="{TOP}" width="{SIZE}" height="{SIZE}" fill="none" '
        'stroke="currentColor" opacity=".35"/>'
    ]
    for tick in (0.0, 0.5, 1.0):
        parts.append(
            f'<text x="{_x(tick)}" y="{TOP + SIZE + 16}" text-anchor="middle">{tick:g}</text>'
        )
        parts.append(
            f'<text x="{LEFT - 5}" y="{float(_y(tick)) + 4}" text-anchor="end">{tick:g}</text>'
        )
    middle = TOP + SIZE / 2
    parts.append(
        f'<text x="{LEFT + SIZE / 2}" y="{TOP + SIZE + 32}" text-anchor="middle">{x_title}</text>'
    )
    parts.append(
        f'<text x="11" y="{middle}" text-anchor="middle" '
        f'transform="rotate(-90 11 {middle})">{y_title}</text>'
    )
    return (
        f'<svg viewBox="0 0 {LEFT + SIZE + 12} {TOP + SIZE + 40}" role="img" '
        f'aria-label="{y_title} by {x_title}" font-size="11" fill="currentColor">'
        + "".join([*parts, *shapes])
        + "</svg>"
    )


def _x(value: float) -> float:
    return round(LEFT + value * SIZE, 1)


def _y(value: float) -> float:
    return round(TOP + (1 - value) * SIZE, 1)

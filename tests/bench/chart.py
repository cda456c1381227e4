"""The figures as an SVG: a bar a figure, as long as it is good against what it must be (the line) and should be (the dots)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Protocol
from xml.etree import ElementTree as ET

_LABEL_WIDTH: Final = 330
_BAR_WIDTH: Final = 420
_VALUE_WIDTH: Final = 150
_ROW: Final = 22
_DECADE: Final = _BAR_WIDTH / 2
"""Pixels for a factor of ten; the line of what must be reached is in the middle."""
_COLOURS: Final = {"goal": "#2e7d5b", "ok": "#4f8fc0", "weaker": "#c0653b"}


class Figure(Protocol):
    """What is drawn."""

    @property
    def section(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def value(self) -> float: ...
    @property
    def unit(self) -> str: ...
    @property
    def must(self) -> float: ...
    @property
    def goal(self) -> float: ...
    @property
    def more_is_better(self) -> bool: ...
    @property
    def verdict(self) -> str: ...


def draw(figures: Sequence[Figure]) -> str:
    """Draw what has something to be held to.

    Returns:
        A whole SVG document. The scale is logarithmic, right is better, the line in the middle is what must be.
    """
    held = [figure for figure in figures if figure.must and figure.value > 0]
    height = _ROW * (len(held) + len({figure.section for figure in held}) + 2)
    width = _LABEL_WIDTH + _BAR_WIDTH + _VALUE_WIDTH
    svg = ET.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {width} {height}",
            "font-family": "sans-serif",
            "font-size": "13",
        },
    )
    ET.SubElement(svg, "rect", {"width": str(width), "height": str(height), "fill": "#ffffff"})
    _text(svg, _LABEL_WIDTH + _BAR_WIDTH / 2, _ROW * 0.8, "what must be reached", anchor="middle", colour="#666666")
    y, section = _ROW * 1.5, ""
    for figure in held:
        if figure.section != section:
            section = figure.section
            _text(svg, 8, y + _ROW * 0.7, section, weight="bold")
            y += _ROW
        _bar(svg, y, figure)
        y += _ROW
    middle = _LABEL_WIDTH + _BAR_WIDTH / 2
    ET.SubElement(
        svg,
        "line",
        {"x1": f"{middle}", "x2": f"{middle}", "y1": f"{_ROW}", "y2": f"{height - 8}", "stroke": "#333333"},
    )
    return ET.tostring(svg, encoding="unicode")


def _bar(svg: ET.Element, y: float, figure: Figure) -> None:
    _text(svg, _LABEL_WIDTH - 8, y + _ROW * 0.7, figure.name, anchor="end")
    end = _place(figure, figure.value)
    ET.SubElement(
        svg,
        "rect",
        {
            "x": f"{_LABEL_WIDTH}",
            "y": f"{y + 3}",
            "width": f"{end:.1f}",
            "height": f"{_ROW - 6}",
            "fill": _COLOURS[figure.verdict],
        },
    )
    if figure.goal:
        x = _LABEL_WIDTH + _place(figure, figure.goal)
        ET.SubElement(svg, "circle", {"cx": f"{x:.1f}", "cy": f"{y + _ROW / 2}", "r": "3", "fill": "#333333"})
    value = f"{figure.value:,.0f}" if figure.value >= 100 else f"{figure.value:.3g}"
    _text(svg, _LABEL_WIDTH + _BAR_WIDTH + 8, y + _ROW * 0.7, f"{value} {figure.unit}")


def _place(figure: Figure, value: float) -> float:
    better = value / figure.must if figure.more_is_better else figure.must / value
    return min(max(_BAR_WIDTH / 2 + math.log10(better) * _DECADE, 2.0), float(_BAR_WIDTH))


def _text(
    svg: ET.Element,
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    weight: str = "normal",
    colour: str = "#111111",
) -> None:
    attributes = {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor, "font-weight": weight, "fill": colour}
    ET.SubElement(svg, "text", attributes).text = text

"""Pictures of an acceptance as SVG, to stand in its page without any other file."""

from html import escape

import numpy as np

from rpl_runtime.acceptance.journal import Picture

_WIDTH, _HEIGHT = 520, 260  # [px]
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 140, 28, 40  # [px] around the axes; on the right, the curves' names
_COLOURS = ("#1c7ed6", "#e8590c", "#2f9e44", "#ae3ec9", "#e03131", "#0c8599", "#66a80f")
_TICKS = 5  # on an axis, about


def svg(picture: Picture) -> str:
    """A picture as an SVG element."""
    x = np.concatenate([curve.x for curve in picture.curves] + [[mark for mark, _ in picture.marks]])
    y = np.concatenate([curve.y for curve in picture.curves])
    (x_low, x_high), (y_low, y_high) = _span(x), _span(y)
    if picture.same_scale:
        per_px = max((x_high - x_low) / (_WIDTH - _LEFT - _RIGHT), (y_high - y_low) / (_HEIGHT - _TOP - _BOTTOM))
        x_low, x_high = _widened(x_low, x_high, per_px * (_WIDTH - _LEFT - _RIGHT))
        y_low, y_high = _widened(y_low, y_high, per_px * (_HEIGHT - _TOP - _BOTTOM))

    def at(x: float, y: float) -> tuple[float, float]:
        right = _LEFT + (x - x_low) / (x_high - x_low) * (_WIDTH - _LEFT - _RIGHT)
        return right, _HEIGHT - _BOTTOM - (y - y_low) / (y_high - y_low) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [_text(_LEFT + 14, 16, picture.title, weight="bold")]
    for tick in _ticks(x_low, x_high):
        across, _ = at(tick, y_low)
        parts.append(_line(across, _TOP, across, _HEIGHT - _BOTTOM, "#e9ecef"))
        parts.append(_text(across, _HEIGHT - _BOTTOM + 14, f"{tick:g}", anchor="middle"))
    for tick in _ticks(y_low, y_high):
        _, down = at(x_low, tick)
        parts.append(_line(_LEFT, down, _WIDTH - _RIGHT, down, "#e9ecef"))
        parts.append(_text(_LEFT - 5, down + 4, f"{tick:g}", anchor="end"))
    for mark, what in picture.marks:
        across, _ = at(mark, y_low)
        parts.append(_line(across, _TOP, across, _HEIGHT - _BOTTOM, "#e03131", dashed=True))
        parts.append(_text(across + 4, _TOP + 12, what, colour="#e03131"))
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6, picture.x, anchor="middle"))
    parts.append(_text(4, _TOP - 6, picture.y))
    for number, curve in enumerate(picture.curves):
        colour = _COLOURS[number % len(_COLOURS)]
        places = [at(*place) for place in zip(curve.x, curve.y, strict=True)]
        if len(places) == 1:
            parts.append(f'<circle cx="{places[0][0]:.1f}" cy="{places[0][1]:.1f}" r="4" fill="{colour}"/>')
        points = " ".join(f"{across:.1f},{down:.1f}" for across, down in places)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        if len(picture.curves) > 1:
            parts.append(_text(_WIDTH - _RIGHT + 8, _TOP + 12 + 13 * number, curve.name, colour=colour))
    inner = "".join(parts)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" role="img" '
        f'aria-label="{escape(picture.title)}">{inner}</svg>'
    )


def _span(values: np.ndarray) -> tuple[float, float]:
    low, high = float(np.min(values, initial=np.inf)), float(np.max(values, initial=-np.inf))
    if not low < high:  # nothing, or one value
        low = low if np.isfinite(low) else 0.0
        return low - 0.5, low + 0.5
    margin = 0.05 * (high - low)
    return low - margin, high + margin


def _widened(low: float, high: float, span: float) -> tuple[float, float]:
    middle = (low + high) / 2
    return middle - span / 2, middle + span / 2


def _ticks(low: float, high: float) -> list[float]:
    rough = (high - low) / _TICKS
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(step for step in (power, 2 * power, 5 * power, 10 * power) if step >= rough)
    return [round(number * step, 10) for number in range(int(np.ceil(low / step)), int(np.floor(high / step)) + 1)]


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="4 3"' if dashed else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{dash}/>'


def _text(x: float, y: float, text: str, anchor: str = "start", weight: str = "normal", colour: str = "#495057") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" fill="{colour}">'
        f"{escape(text)}</text>"
    )

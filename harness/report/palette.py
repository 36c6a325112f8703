"""Colours of the page in both themes, after Okabe and Ito: distinct for colour-blind readers, on either background.

Figures are drawn in the light theme; on the page every colour becomes a CSS variable. Text keeps a contrast of 4.5 to
its ground and marks one of 3 (WCAG 1.4.3 and 1.4.11); marker and dash tell series apart without any colour.
"""

LIGHT = {
    "ground": "#fffffe",
    "panel": "#f5f6f8",
    "ink": "#1c2128",
    "muted": "#57606b",
    "grid": "#dfe3e8",
    "accent": "#0a5cad",
}
DARK = {
    "ground": "#13171d",
    "panel": "#1c222a",
    "ink": "#e8ebef",
    "muted": "#a3adb8",
    "grid": "#343c46",
    "accent": "#74b8ff",
}
SERIES_LIGHT = ("#0072b2", "#c24a00", "#00795a", "#a8437c", "#8a6100", "#5a6470")
SERIES_DARK = ("#56b4e9", "#ff8a3d", "#2cc295", "#e79ac4", "#e6b422", "#aeb7c2")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1)), (0, (1, 1)))


def variables(dark: bool) -> str:
    """The CSS custom properties of a theme."""
    colours, series = (DARK, SERIES_DARK) if dark else (LIGHT, SERIES_LIGHT)
    named = {**colours, **{f"s{number}": colour for number, colour in enumerate(series)}}
    return " ".join(f"--{name}: {colour};" for name, colour in named.items())


def as_variables(svg: str) -> str:
    """A figure drawn in the light theme, its colours turned into CSS variables and its ground left open."""
    svg = svg.replace(LIGHT["ground"], "none")
    for name in ("ink", "muted", "grid"):
        svg = svg.replace(LIGHT[name], f"var(--{name})")
    for number, colour in enumerate(SERIES_LIGHT):
        svg = svg.replace(colour, f"var(--s{number})")
    return svg


def contrast(first: str, second: str) -> float:
    """WCAG 2 contrast ratio of two #rrggbb colours, 1 to 21."""
    a, b = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (a + 0.05) / (b + 0.05)


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

"""One colour for each block family, in all figures and pages: convolutions cool, attention warm, mixtures between.

After Paul Tol's schemes (bright, vibrant, muted), which colour-blind readers can tell apart; whatever is coloured also
says its family in words, so nothing hangs on colour alone.
"""

#: By block family.
FAMILY_COLOURS = {
    "mbconv": "#4477AA",
    "convnext": "#66CCEE",
    "bottleneck": "#225555",
    "repmixer": "#44AA99",
    "pool": "#BBBBBB",
    "window": "#EE6677",
    "global": "#882255",
    "linear": "#EE7733",
    "levit": "#AA3377",
    "mobilevit": "#CCBB44",
    "lgl": "#999933",
    "parallel": "#228833",
}


def text_on(colour: str) -> str:
    """Black or white, whichever reads better on a colour '#RRGGBB': of the higher contrast ratio (WCAG 2.2)."""
    return "#000000" if (luminance(colour) + 0.05) ** 2 > 1.05 * 0.05 else "#FFFFFF"


def luminance(colour: str) -> float:
    """Relative luminance of '#RRGGBB', 0..1 (WCAG 2.2, after sRGB, IEC 61966-2-1)."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return sum(share * value for share, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

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
    "global": "#AA3377",
    "linear": "#EE7733",
    "levit": "#882255",
    "mobilevit": "#CCBB44",
    "lgl": "#999933",
    "parallel": "#228833",
}

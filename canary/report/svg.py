"""Matplotlib figures as inline SVG that wears the page's colours and font.

A figure is drawn in the marker colours below; each is then replaced by a CSS variable,
so that one drawing serves light, dark and print. Text stays text. Equal figures give
equal bytes: no dates, and ids from a fixed salt.
"""

import io
import re
from collections.abc import Callable, Mapping
from typing import Any

import matplotlib as mpl
from markupsafe import escape
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

_NAMES = (
    "ink",
    "muted",
    "grid",
    "baseline",
    "candidate",
    "good",
    "bad",
    "unsure",
    "series-1",
    "series-2",
    "series-3",
    "series-4",
    "series-5",
    "series-6",
)
COLOURS = {name: f"#0102{index:02x}" for index, name in enumerate(_NAMES, start=3)}
"""Marker colours by the name of the CSS variable that replaces them."""


def settings(colours: Mapping[str, str]) -> dict[Any, Any]:
    """Return what every chart looks like, in these colours by their names."""
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": "canary",
        "text.parse_math": False,  # a dollar sign in a task's name is a dollar sign
        "path.simplify": False,
        "font.family": ["DejaVu Sans"],
        "font.size": 10.5,
        "axes.edgecolor": colours["muted"],
        "axes.labelcolor": colours["muted"],
        "axes.labelsize": 10,
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": colours["grid"],
        "grid.linewidth": 0.8,
        "legend.frameon": False,
        "legend.fontsize": 10,
        "legend.labelcolor": colours["ink"],
        "text.color": colours["ink"],
        "xtick.color": colours["muted"],
        "ytick.color": colours["muted"],
        "xtick.minor.bottom": False,
        "ytick.minor.left": False,
    }


def to_svg(
    draw: Callable[[Figure], None],
    *,
    width: float,
    height: float,
    key: str,
    title: str,
    finding: str,
) -> str:
    """Return the figure as an ``<svg>`` element, ready to stand in a page.

    Args:
        draw: Draws on the figure that it is given, in `COLOURS` only.
        width: In SVG units, which are CSS pixels at full size.
        height: In the same units.
        key: Prefix of the ids inside, unique on the page.
        title: What is shown.
        finding: What there is to see, in words, for those who can't.
    """
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(settings(COLOURS))
        figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
        FigureCanvasSVG(figure)
        figure.patch.set_visible(False)
        draw(figure)
        for axes in figure.axes:
            axes.patch.set_visible(False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg")
    body = _themed(_own_ids(_slim(buffer.getvalue()), key))
    return (
        f'<svg class="chart" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{escape(finding)}"><title>{escape(title)}</title>{body}</svg>'
    )


def _slim(document: str) -> str:
    """Keep what is drawn, to a hundredth of a pixel; no dates, no page-wide style."""
    body = document[document.index(">", document.index("<svg")) + 1 :]
    body = body[: body.rindex("</svg>")]
    body = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r"<defs>\s*</defs>", "", body)
    body = re.sub(r">\s+<", "><", body.strip())
    body = body.replace("xlink:href", "href")
    return re.sub(r"<[^>]+>", lambda tag: _slim_tag(tag[0]), body)


def _slim_tag(tag: str) -> str:
    tag = re.sub(r" font-family: [^;\"]+;?", "", tag)
    tag = re.sub(r"font: ([\d.]+px) [^;\"]+", r"font-size: \1", tag)
    tag = re.sub(r' transform="rotate\(-?0 [^"]*"', "", tag)
    tag = re.sub(
        r"(?<![\w#])-?\d+\.\d{3,}",
        lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."),
        tag,
    )
    return re.sub(r"\s*\n\s*|(?<=[MLQCz]) (?=[-\d])| (?=[MLQCz])(?=[^=]*$)", "", tag)


def _own_ids(body: str, key: str) -> str:
    """Drop ids that nothing refers to; make the others unique on the page."""
    used = set(re.findall(r"(?:url\(#|href=\"#)([\w-]+)", body))
    body = re.sub(
        r' id="([^"]+)"',
        lambda found: f' id="{key}-{found[1]}"' if found[1] in used else "",
        body,
    )
    return re.sub(r"(url\(#|href=\"#)", rf"\g<1>{key}-", body)


def _themed(body: str) -> str:
    for name, colour in COLOURS.items():
        body = body.replace(colour, f"var(--{name})")
    return body

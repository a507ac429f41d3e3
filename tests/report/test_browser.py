"""The page in a real browser: a phone's width, no console message, no request."""

import html as html_text
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from canary.report import ReportData, render_html

pytestmark = pytest.mark.browser

PHONE_PX = 390
MEASURE = """
<!doctype html><meta charset="utf-8"><body style="margin:0">
<iframe style="border:0;width:%dpx;height:900px" srcdoc="%s"></iframe>
<pre id="found"></pre>
<script>
addEventListener("load", () => {
  const view = document.querySelector("iframe").contentWindow;
  const page = view.document;
  const inside = (e) => e.closest(".scroll, .skip, .overview thead") !== null;
  const wide = [...page.body.querySelectorAll("*")].filter((e) => {
    const box = e.getBoundingClientRect();
    return box.width > 0 && !inside(e) && (box.right > %d + .5 || box.left < -.5);
  });
  const small = [...page.querySelectorAll("svg.chart text")].filter(
    (e) => e.getBoundingClientRect().height < 8);
  document.getElementById("found").textContent = JSON.stringify({
    scroll: page.documentElement.scrollWidth,
    wide: wide.slice(0, 5).map((e) => e.outerHTML.slice(0, 120)),
    small: small.length,
    charts: page.querySelectorAll("svg.chart").length,
    requests: view.performance.getEntriesByType("resource").map((r) => r.name),
  });
});
</script>
"""


def opened(page: str, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Open the page at a phone's width; return what it measured and what it logged."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.fail("chromium is missing: apt-get install chromium")
    wrapper = folder / "wrapper.html"
    frame = html_text.escape(page, quote=True)
    wrapper.write_text(MEASURE % (PHONE_PX, frame, PHONE_PX), encoding="utf-8")
    done = subprocess.run(
        [
            chromium,
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
            *("--no-first-run", "--disable-background-networking"),
            *(
                "--disable-component-update",
                "--disable-sync",
                "--enable-logging=stderr",
            ),
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={folder / 'profile'}",
            *("--window-size=800,1000", "--dump-dom", wrapper.as_uri()),
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = re.search(r'<pre id="found">(.+?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    logged = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(html_text.unescape(found[1])), logged


def test_report_on_a_phone(report_data: ReportData, tmp_path: Path) -> None:
    """At 390 px nothing sticks out, text is legible, nothing is logged or fetched."""
    found, logged = opened(render_html(report_data), tmp_path)

    assert [] == found["wide"]
    assert found["scroll"] <= PHONE_PX
    assert 0 == found["small"]
    assert found["charts"] >= 20
    assert [] == found["requests"]
    assert [] == logged


def test_what_the_measurement_would_see(tmp_path: Path) -> None:
    """Control: a page that overflows, fetches and fails is caught at all three."""
    page = (
        "<!doctype html><body><div style='width:900px'>wide</div>"
        "<img src='http://nowhere.invalid/x.png'><script>throw 1</script>"
    )
    found, logged = opened(page, tmp_path)

    assert found["wide"]
    assert found["scroll"] > PHONE_PX
    assert ["http://nowhere.invalid/x.png"] == found["requests"]
    assert logged

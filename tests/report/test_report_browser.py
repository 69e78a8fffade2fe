"""The page in a real browser, where there is one."""

import json
import re
import shutil
import subprocess

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine (apt-get install chromium)")

PROBE = """
<script>window.failures = []; addEventListener("error", e => failures.push(String(e.message)));
addEventListener("securitypolicyviolation", e => failures.push(e.blockedURI));</script>
"""
ASK = """
<pre id="answer"></pre><script>
const right = e => e.getBoundingClientRect().right;
const seen = s => [...document.querySelectorAll(s)].filter(e => e.offsetWidth);
const answer = {
  plots: seen(".plot").length, drawn: seen(".plot .main-svg .trace").length > 0,
  blank: seen(".plot").filter(p => !p.querySelector(".trace, .points")).map(p => p.ariaLabel),
  wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  spilling: seen(".plot").filter(p => right(p.querySelector(".main-svg")) > right(p) + 1).length,
  background: getComputedStyle(document.body).backgroundColor,
};
const chooser = document.querySelector('[data-chooser="F1"]');
chooser.value = String(chooser.options.length - 1);
chooser.dispatchEvent(new Event("change"));
const shown = seen('.view[data-figure="F1"]');
answer.views = shown.map(v => v.dataset.view);
answer.redrawn = shown[0].querySelectorAll(".main-svg").length > 0;
const key = document.querySelector('#accuracy .key');
const lines = () => document.querySelector("#accuracy .plot").querySelectorAll(".scatterlayer .trace").length;
answer.before = lines(); key.click(); answer.after = lines();
answer.pressed = key.getAttribute("aria-pressed");
answer.failures = failures;
document.getElementById("answer").textContent = JSON.stringify(answer);
</script>
"""


def ask(written, tmp_path, width: int, *, dark: bool) -> dict:
    text = (written / "index.html").read_text()
    page = text.replace("<head>", "<head>" + PROBE, 1)
    page = page.replace("</body>\n</html>", ASK + "</body></html>")
    (tmp_path / "page.html").write_text(page)
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        f"--window-size={width},900", "--virtual-time-budget=15000", "--dump-dom",
        f"file://{tmp_path / 'page.html'}",
    ]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.search(r'<pre id="answer">(.+?)</pre>', shown)
    assert found, "the page's scripts did not run to their end"
    return json.loads(found[1].replace("&quot;", '"').replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))


@pytest.mark.parametrize(("width", "dark"), [(500, True), (1280, False)])
def test_the_page_draws_itself_and_answers(written, tmp_path, width, dark):
    answer = ask(written, tmp_path, width, dark=dark)
    assert answer["failures"] == []
    assert answer["plots"] == 4 + 2 + 2 + 2 + 4 + 1 + 3 + 3
    assert answer["blank"] == []
    assert answer["wide"] <= 0, "the page scrolls sideways"
    assert answer["spilling"] == 0
    assert answer["background"] == ("rgb(16, 19, 23)" if dark else "rgb(250, 250, 248)")
    assert len(answer["views"]) == 1
    assert answer["views"] != ["0"]
    assert answer["redrawn"]
    assert answer["pressed"] == "false"
    assert answer["after"] < answer["before"]

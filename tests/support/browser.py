"""A headless Chromium that opens pages from disk and answers questions about them.

A harness holds the page, unchanged and under its own policy, in a frame of a given width and asks
it questions; the answers are read from the harness's own document.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest

OVERFLOW = """
  for (const folded of page.querySelectorAll("details")) folded.open = true;
  const scrolls = (e) => e.closest(".scroll, nav, pre, .film, svg");
  const wide = [...page.querySelectorAll("body *")].filter((e) => !scrolls(e) &&
    (e.getBoundingClientRect().right > page.documentElement.clientWidth + 1 ||
     (e.clientWidth > 1 && e.scrollWidth > e.clientWidth + 1)));
  return [page.documentElement.scrollWidth, page.documentElement.clientWidth,
          wide.slice(0, 5).map((e) => e.outerHTML.slice(0, 120))];
"""
"""Widths of the page and its window, and the elements that are wider."""


class Browser:
    """Runs a headless Chromium once per question."""

    def __init__(self, program: str, home: Path) -> None:
        self.program, self.home = program, home
        self.heard: list[str] = []
        """Lines that the console got while the last question was asked."""

    def run(self, page: Path, *options: str) -> tuple[str, str]:
        """What it prints, and what it logs."""
        command = [
            self.program, "--headless=new", "--no-sandbox", "--disable-gpu",
            "--disable-dev-shm-usage", "--no-first-run", f"--user-data-dir={self.home}",
            "--enable-logging=stderr", "--virtual-time-budget=4000", *options, page.as_uri(),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return done.stdout, done.stderr

    def console(self, page: Path) -> list[str]:
        """Lines that the page's console got."""
        _, logged = self.run(page, "--dump-dom")
        return _console(logged)

    def ask(self, page: Path, question: str, *, width: int = 1200) -> Any:
        """The value of a JavaScript expression over ``page``, the page's document."""
        content = escape(page.read_text(encoding="utf-8"), quote=True)
        script = f"""
          const frame = document.querySelector("iframe");
          const answer = (page) => {{ {question} }};
          frame.addEventListener("load", () => {{
            let found;
            try {{ found = answer(frame.contentDocument); }} catch (e) {{ found = String(e); }}
            document.querySelector("pre").textContent = "ANSWER" + JSON.stringify(found) + "END";
          }});
          frame.srcdoc = document.querySelector("textarea").value;
        """
        harness = page.with_name(f"harness-{width}.html")
        harness.write_text(
            f'<!doctype html><meta charset="utf-8"><pre></pre><textarea hidden>{content}</textarea>'
            f'<iframe style="width:{width}px;height:900px;border:0"></iframe>'
            f"<script>{script}</script>",
            encoding="utf-8",
        )
        printed, logged = self.run(harness, "--dump-dom")
        self.heard = _console(logged)
        answer = re.search(r"<pre>ANSWER(.*?)END</pre>", printed, re.S)
        assert answer is not None, "the page was not loaded"
        return json.loads(unescape(answer.group(1)))


def _console(logged: str) -> list[str]:
    return [line for line in logged.splitlines() if ":CONSOLE" in line]


def found_or_skipped(home: Path) -> Browser:
    """The browser of this machine, with its profile in ``home``; a test without one is skipped."""
    names = ("chromium", "chromium-browser", "google-chrome")
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(names)} is there, and CHROMIUM names none")
    return Browser(program, home)

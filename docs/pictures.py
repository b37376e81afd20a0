"""Draws the pictures of the README, docs/images/*.png, from a run of the bundled corpus.

    python docs/pictures.py [RUN]

Without RUN, all stages are run first, or found done. It needs Chromium (or CHROMIUM=another one).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from html import escape
from pathlib import Path

from PIL import Image

import spamo_cache as sc

IMAGES = Path(__file__).parent / "images"
CLIP = "test-00017"
DESK, PHONE, HEIGHT = 1120, 390, 1180
"""Sizes of the windows that show the report, pixels."""
COLOURS = 200
"""Enough for flat drawings, and a third of the bytes."""


def main() -> None:
    run = Path(sys.argv[1]) if len(sys.argv) > 1 else sc.reproduce().path
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        page = sc.report(run, Path(scratch) / "report.html")
        desk = screenshot(page, DESK, "header")
        phone = screenshot(page, PHONE, "section:has(.pairs)")
    both = Image.new("RGB", (DESK + PHONE + 72, HEIGHT + 48), "#dcd9d0")
    both.paste(desk, (24, 24))
    both.paste(phone, (DESK + 48, 24))
    keep(both, "report.png")
    with tempfile.TemporaryDirectory() as scratch:
        sheet = sc.inspect(CLIP, Path(scratch) / "sheet.png", rows=2)
        keep(Image.open(sheet), "signer.png")


def keep(picture: Image.Image, name: str) -> None:
    picture.convert("RGB").quantize(COLOURS).save(IMAGES / name, optimize=True)


def screenshot(page: Path, width: int, place: str) -> Image.Image:
    """The part of a page that a window of ``width`` shows from the element ``place`` on."""
    script = f"""
      const frame = document.querySelector("iframe");
      frame.addEventListener("load", () => {{
        const page = frame.contentDocument;
        page.documentElement.style.scrollBehavior = "auto";
        page.querySelector("nav").style.position = "static";
        const top = page.querySelector("{place}").getBoundingClientRect().top;
        page.defaultView.scrollTo(0, top);
      }});
      frame.srcdoc = document.querySelector("textarea").value;
    """
    harness, taken = page.with_name("harness.html"), page.with_name("taken.png")
    harness.write_text(
        "<!doctype html><meta charset=utf-8><body style='margin:0'>"
        f"<textarea hidden>{escape(page.read_text(encoding='utf-8'))}</textarea>"
        f"<iframe style='width:{width}px;height:{HEIGHT}px;border:0'></iframe>"
        f"<script>{script}</script>",
        encoding="utf-8",
    )
    program = os.environ.get("CHROMIUM") or shutil.which("chromium") or "google-chrome"
    subprocess.run(
        [
            program, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--no-first-run", "--disable-dev-shm-usage", "--virtual-time-budget=4000",
            f"--user-data-dir={page.with_name('profile')}", f"--screenshot={taken}",
            f"--window-size={max(width, 600)},{HEIGHT}", harness.as_uri(),
        ],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    with Image.open(taken) as whole:
        return whole.convert("RGB").crop((0, 0, width, HEIGHT))


if __name__ == "__main__":
    main()

"""Makes the pictures and the terminal capture of inspect.md and the README again: python docs/pictures.py

Needs a chromium on the PATH and playwright (both only for this and for the tests of the page).
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

DOCS = Path(__file__).parent
PICTURES = DOCS / "pictures"
CLIP = "docs/media/photos.mp4"
QUESTIONS = ("How many people are there?", "What do you hear first?")
KEEP = "0.1"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]


def ep(*arguments: str) -> str:
    """What the program prints, 80 columns wide, without colour."""
    run = subprocess.run(
        [sys.executable, "-m", "epcli", *arguments],
        cwd=DOCS.parent,
        env={**os.environ, "COLUMNS": "80", "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return "\n".join(line.rstrip() for line in run.stdout.splitlines()).strip("\n")


def save(png: bytes, name: str) -> None:
    """A screenshot with few colours: a third of its bytes."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    image.quantize(160, dither=Image.Dither.NONE).save(PICTURES / name, optimize=True)


def shoot(page_file: Path) -> None:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as program:
        browser = program.chromium.launch(executable_path=chromium, args=FLAGS, timeout=180_000)
        for name, width, height, scheme, run in (
            ("inspect-light.png", 1000, 1130, "light", 1),
            ("inspect-dark.png", 1000, 1130, "dark", 2),
            ("inspect-phone.png", 390, 1100, "light", 2),
        ):
            page = browser.new_context(
                viewport={"width": width, "height": height},
                color_scheme=scheme,  # type: ignore[arg-type]
            ).new_page()
            page.set_default_timeout(120_000)
            page.goto(page_file.as_uri())
            page.click(f"#runs button:nth-child({run})")
            page.wait_for_timeout(2000)
            save(page.screenshot(), name)
        browser.close()


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        report, sheet = Path(scratch) / "kept.html", Path(scratch) / "kept.png"
        common = (CLIP, *QUESTIONS, "--keep", KEEP)
        ep("inspect", *common, "--html", str(report), "--png", str(sheet), "--quiet")
        shoot(report)
        save(sheet.read_bytes(), "inspect-sheet.png")
    shown = ep("inspect", CLIP, QUESTIONS[0], "--keep", KEEP, "--show-kept-tokens")
    page = DOCS / "inspect.md"
    command = f'$ ep inspect {CLIP} "{QUESTIONS[0]}" --keep {KEEP} --show-kept-tokens'
    block = f"<!-- terminal -->\n```text\n{command}\n\n{shown}\n```\n<!-- end -->"
    text = page.read_text(encoding="utf-8")
    page.write_text(re.sub(r"<!-- terminal -->.*?<!-- end -->", lambda _: block, text, flags=re.DOTALL), "utf-8")
    total = sum(each.stat().st_size for each in PICTURES.glob("inspect-*.png"))
    print(f"pictures: {total / 1000:.0f} kB in all")


if __name__ == "__main__":
    main()

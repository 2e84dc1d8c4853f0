"""Screenshots of the page of a running ``transxnet serve`` for the documentation.

    python docs/scripts/serve_screenshots.py http://127.0.0.1:8000 photo.jpg docs/images

writes serve_classification.png (with Grad-CAM), serve_detection.png or serve_segmentation.png, by the network's task,
and the same at a width of 360 pixels as serve_..._narrow.png.
"""

from __future__ import annotations

import argparse
import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

LARGEST = 250_000  # bytes


def main() -> None:
    """Take the screenshots that the command line asks for."""
    parser = argparse.ArgumentParser(description="Take screenshots of the page of transxnet serve.")
    parser.add_argument("url", help="address of the page")
    parser.add_argument("images", nargs="+", type=Path, help="images to show, the first of them large")
    parser.add_argument("folder", type=Path, help="folder that the files are written to")
    parser.add_argument("--stage", type=int, default=4, help="stage of the heat map")
    parser.add_argument("--dark", action="store_true", help="use dark colours")
    options = parser.parse_args()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for suffix, width, height in (("", 1280, 800), ("_narrow", 360, 740)):
            page = browser.new_page(
                viewport={"width": width, "height": height},
                color_scheme="dark" if options.dark else "light",
                reduced_motion="reduce",
            )
            task = show(page, options.url, options.images, options.stage)
            write(page.screenshot(full_page=True), options.folder / f"serve_{task}{suffix}.png")
        browser.close()


def show(page: Page, url: str, images: list[Path], stage: int) -> str:
    """Open the page with images, and wait for the results; returns the network's task."""
    with page.expect_response("**/model") as answer:
        page.goto(url)
    task = str(answer.value.json()["task"])
    page.locator("#files").set_input_files(images)
    page.locator("#after").wait_for()
    page.locator(".thumb:not([data-state=done])").first.wait_for(state="detached")
    switch = page.get_by_role("switch")
    if switch.count():
        switch.check()
        page.get_by_label(f"Stage {stage}").check()
        page.locator("#live", has_text=f"Heat map of stage {stage}").wait_for(state="attached")
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return task


def write(content: bytes, path: Path) -> None:
    """Write a PNG with as many colours as its size allows."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    for colours in (256, 128, 64, 32):
        file = io.BytesIO()
        image.quantize(colours, dither=Image.Dither.FLOYDSTEINBERG).save(file, "PNG", optimize=True)
        if file.tell() <= LARGEST:
            break
    path.write_bytes(file.getvalue())


if __name__ == "__main__":
    main()

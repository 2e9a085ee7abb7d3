"""Pictures of the pages, of the real thing: `make screenshots` takes those of the README and docs.

`make screenshots ARGS="--all DIRECTORY"` takes every page in every state at the width of a phone, a
tablet and a desk, in light and dark, to be looked at; `--only console` those of one page. Text is
set in Inter where it is installed (Debian: fonts-inter), or in what the machine has.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.async_api import FloatRect, Page

from tests.web import tours
from tests.web.pages import stop_chromium

FONTS = """<fontconfig><include>/etc/fonts/fonts.conf</include>
<match><test name="family" compare="not_eq"><string>monospace</string></test>
<edit name="family" mode="prepend" binding="strong"><string>Inter</string></edit></match>
</fontconfig>"""


PICTURES = Path("docs/images")
MARGIN = 24  # CSS pixels around what is clipped
SCALE = 1.5  # of the README's, which are shown smaller than they are
LOOKS = 150  # of the operations page: all that its charts have room for


@dataclass(frozen=True, slots=True)
class Chosen:
    """One of the README's and docs': a state of a tour, in one size."""

    state: str
    width: int
    height: int
    scheme: tours.Scheme = "light"
    of: str = "body"
    """What is in the picture, with some space around it."""


CHOSEN = {
    "chat-light": Chosen("widget-thread", 2000, 760, of="ringback-chat .panel"),
    "chat-dark": Chosen("widget-thread", 2000, 760, "dark", of="ringback-chat .panel"),
    "demo": Chosen("demo-locked", 1280, 1000),
    "console": Chosen("console-why", 1280, 800),
    "ops": Chosen("ops-busy", 1280, 800),
}


async def everything(into: Path, only: str) -> None:
    """Every state of the tours whose name has `only` in it."""
    into.mkdir(parents=True, exist_ok=True)
    async for name, page in states(only):
        for width, height in tours.SIZES:
            for scheme in tours.SCHEMES:
                picture = Chosen(name, width, height, scheme)
                await take(page, picture, into / f"{name}-{width}-{scheme}.png", whole=True)


async def chosen(only: str) -> None:
    async for name, page in states(only, device_scale_factor=SCALE):
        for file, picture in CHOSEN.items():
            if picture.state == name:
                await take(page, picture, PICTURES / f"{file}.png")


async def states(only: str, **options: Any) -> AsyncIterator[tuple[str, Page]]:
    for tour in tours.TOURS:
        with tempfile.TemporaryDirectory() as directory:
            if only in tour.__name__:
                more = options | ({"asked": LOOKS} if tour is tours.ops else {})
                async with aclosing(tour(Path(directory), **more)) as its:
                    async for name, page in its:
                        yield name, page


async def take(page: Page, picture: Chosen, path: Path, *, whole: bool = False) -> None:
    await page.set_viewport_size({"width": picture.width, "height": picture.height})
    await page.emulate_media(color_scheme=picture.scheme, reduced_motion="reduce")
    clip = None
    if picture.of != "body":
        box = await page.locator(picture.of).bounding_box()
        assert box is not None
        x, y = box["x"] - MARGIN, box["y"] - MARGIN
        clip = FloatRect(x=x, y=y, width=picture.width - x, height=picture.height - y)
    await page.screenshot(path=path, clip=clip, full_page=whole)


async def photographed(directory: Path | None, only: str) -> None:
    try:
        await (everything(directory, only) if directory else chosen(only))
    finally:
        await stop_chromium()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", type=Path, metavar="DIRECTORY")
    parser.add_argument("--only", default="", help="widget, demo, console or ops")
    arguments = parser.parse_args()
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as fonts:
        fonts.write(FONTS)
        fonts.flush()
        os.environ["FONTCONFIG_FILE"] = fonts.name
        asyncio.run(photographed(arguments.all, arguments.only))


if __name__ == "__main__":
    main()

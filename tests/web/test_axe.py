"""axe-core finds nothing on any page, in any state that it has, and no page scrolls sideways."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path

import pytest
from playwright.async_api import Page

from tests.web.packages import packages
from tests.web.tours import SCHEMES, SIZES, TOURS, Tour

pytestmark = pytest.mark.timeout(240)

LOOKED = """() => axe.run().then(({ violations }) => [
  ...violations.flatMap((v) => v.nodes.map((it) => `${v.id}: ${it.html} ${it.failureSummary}`)),
  ...(document.documentElement.scrollWidth > innerWidth ? ["it scrolls sideways"] : []),
])"""


@pytest.mark.parametrize("tour", TOURS, ids=lambda tour: tour.__name__)
async def test_axe_finds_nothing_in_any_state_at_every_size_in_light_and_dark(
    tmp_path: Path, tour: Tour
) -> None:
    axe = axe_source()
    found: list[str] = []
    async with aclosing(tour(tmp_path)) as states:
        async for state, page in states:
            found += [f"{state}, {one}" for one in await violations(page, axe)]
    assert not found, "\n".join(found)


def axe_source() -> str:
    return (packages() / "axe-core" / "axe.min.js").read_text()


async def violations(page: Page, axe: str) -> list[str]:
    found: list[str] = []
    await page.evaluate(axe)
    for width, height in SIZES:
        await page.set_viewport_size({"width": width, "height": height})
        for scheme in SCHEMES:
            await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            found += [f"{width} px, {scheme}: {one}" for one in await page.evaluate(LOOKED)]
    return found

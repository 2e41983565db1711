"""A reader without a mouse: one who has only the keyboard, on a small laptop, and one who has only a thumb, on a phone."""

from __future__ import annotations

import re
from typing import Self

from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser import Server, settled

MANY_TABS = 250  # more between a reader and a button are no way to it
SLOW_MS = 60_000


class Hands:
    """What a reader does to a page. Names are those that a screen reader says."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def go(self, app: Server, place: str) -> None:
        self.page.goto(f"{app.address}/{place}")
        settled(self.page)

    def another_window(self) -> Self:
        """Of the same browser."""
        return type(self)(self.page.context.new_page())

    def press(self, name: str, role: str = "button") -> None:
        """Presses the first button, link or choice of this name, and waits for the page."""
        self._press(self.page.get_by_role(role, name=name).first)  # pyright: ignore[reportArgumentType]
        settled(self.page)

    def follow(self, name: str) -> None:
        """A link of the page, or of the side bar."""
        self._press(self.page.get_by_role("link", name=name).first)
        settled(self.page)

    def fill(self, name: str, text: str) -> None:
        field = self.page.get_by_role("textbox", name=name).or_(self.page.get_by_role("spinbutton", name=name)).first
        expect(field).to_be_visible(timeout=SLOW_MS)
        if not field.evaluate("one => one === document.activeElement"):
            self._press(field)
        self.page.keyboard.press("Control+A")
        self.page.keyboard.press("Delete")
        self.page.keyboard.type(text)

    def choose(self, name: str, wanted: str) -> None:
        """One of a list that opens."""
        self._press(self.page.get_by_role("combobox", name=re.compile(name)).first)
        self.page.keyboard.type(wanted)
        self.page.keyboard.press("Enter")
        settled(self.page)

    def sees(self, text: str | re.Pattern[str]) -> None:
        """It is there, and on the screen without scrolling sideways."""
        found = self.page.get_by_text(text).filter(visible=True).first
        expect(found).to_be_visible(timeout=SLOW_MS)
        self.fits()

    def fits(self) -> None:
        """The page never scrolls sideways."""
        wide = self.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide[0] <= wide[1], f"the page is {wide[0]} px wide in a window of {wide[1]} px"

    def _press(self, wanted: Locator) -> None:
        raise NotImplementedError


class Keys(Hands):
    """Tab until it has the focus, which must be seen; then Enter."""

    def _press(self, wanted: Locator) -> None:
        expect(wanted).to_be_visible(timeout=SLOW_MS)
        self.reach(wanted)
        kind = wanted.evaluate("one => one.tagName + ' ' + (one.type || '')")
        if not re.match(r"TEXTAREA|INPUT (text|number|search)", kind):
            self.page.keyboard.press("Space" if re.match(r"INPUT (radio|checkbox)", kind) else "Enter")

    def reach(self, wanted: Locator) -> None:
        for _ in range(MANY_TABS):
            if wanted.evaluate("one => one === document.activeElement"):
                assert wanted.evaluate("one => one.matches(':focus-visible')")
                return
            self.page.keyboard.press("Tab")
        raise AssertionError(f"Tab does not lead to {wanted}")


class Thumb(Hands):
    """Taps; what the side bar has is behind the button that opens it."""

    def _press(self, wanted: Locator) -> None:
        if wanted.count() and wanted.evaluate("one => one.closest('[data-testid=stSidebar]') !== null") and not self._side_bar_covers():
            self.page.get_by_test_id("stExpandSidebarButton").tap()
        wanted.tap()

    def follow(self, name: str) -> None:
        super().follow(name)
        close = self.page.get_by_test_id("stSidebarCollapseButton").get_by_role("button")
        if close.count() and self._side_bar_covers():
            close.tap()
            settled(self.page)

    def _side_bar_covers(self) -> bool:
        return self.page.get_by_test_id("stSidebar").get_attribute("data-collapsed") == "false"


def keys(chromium: Browser) -> Keys:
    """A browser of its own."""
    return Keys(chromium.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True).new_page())


def thumb(chromium: Browser) -> Thumb:
    """A browser of its own."""
    return Thumb(chromium.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True).new_page())


WAYS = {"keys at 1280 by 800": keys, "thumb on a phone": thumb}

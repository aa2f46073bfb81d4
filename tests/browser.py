"""A real browser for tests: Debian's chromium without a screen, driven by Debian's chromedriver."""

import io
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

PICTURES = "RPL_PICTURES"  # a folder for pictures of the page
REQUIRED = "RPL_REQUIRE_BROWSER"  # CI sets it: without a browser its tests fail there
_MISSING = "no chromium with its driver here; apt-get install chromium chromium-driver, pip install selenium"
_PATIENCE_S = 120.0  # [s] for the page; without a GPU a picture can take seconds
_OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # for root in a container
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--use-angle=swiftshader",  # GL in software
    "--enable-unsafe-swiftshader",
)
TEXT = ("--disable-gpu-compositing",)  # for a page on which nothing is drawn, where it halves the work
_COUNTED_MS = 2000  # [ms] for which the pictures of a page are counted that does not show what it should
_COUNT_PICTURES = """
let pictures = 0;
const count = () => { pictures += 1; requestAnimationFrame(count); };
requestAnimationFrame(count);
const [ms, done] = arguments;
setTimeout(() => done(pictures), ms);"""
_ROUGH = ("--webgl-antialiasing-mode=none",)  # which software draws sooner, unless pictures are kept


class Browser:
    """One window.

    Args:
        driver: selenium's.
    """

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    @property
    def text(self) -> str:
        """All that is written on the page."""
        return self.driver.find_element("tag name", "body").text

    def picture(self) -> np.ndarray:
        """The window as an image (height, width, 3) uint8."""
        from PIL import Image

        return np.asarray(Image.open(io.BytesIO(self._png())).convert("RGB"))

    def _png(self) -> bytes:
        """The window as a picture. Chromedriver gives up after 10 s, in which a slow machine may not have drawn one."""
        from selenium.common.exceptions import TimeoutException

        last = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return self.driver.get_screenshot_as_png()
            except TimeoutException:
                if time.monotonic() > last:
                    raise

    def keep(self, name: str) -> None:
        """Save the window's picture for docs/cockpit.md, if its folder is named by the environment."""
        if folder := os.environ.get(PICTURES):
            for button in self.driver.find_elements("css selector", ".mantine-Notification-closeButton"):
                button.click()
            Path(folder, f"{name}.png").write_bytes(self._png())

    def press(self, name: str) -> None:
        """Press the button, the tab or the checkbox with this name, when it is there."""
        wanted = f"normalize-space(.)={name!r}"
        checkbox = f"//label[{wanted}]/ancestor::*[.//input[@type='checkbox']][1]//input"
        paths = f"//button[{wanted}]|//*[@role='tab'][{wanted}]|{checkbox}"
        self.until(lambda: len(self.driver.find_elements("xpath", paths)) == 1, f"one control named {name}")
        control = self.driver.find_element("xpath", paths)
        if control.get_attribute("role") == "tab":  # hears the mouse, not the click
            control.click()
        else:  # may lie below another control
            self.driver.execute_script("arguments[0].click()", control)

    def in_view(self, text: str) -> bool:
        """Whether the cell of a table with this text can be seen without scrolling."""
        cell = "[...document.querySelectorAll('td')].find(cell => cell.textContent === arguments[0])"
        script = f"const box = {cell}.getBoundingClientRect(); return box.top >= 0 && box.bottom <= innerHeight"
        return bool(self.driver.execute_script(script, text))  # in one go: the table is written again all the time

    def slide(self, name: str, keys: str) -> None:
        """Press keys on the slider with this name, when it is there."""
        path = f"//label[normalize-space(.)={name!r}]/ancestor::*[.//*[@role='slider']][1]//*[@role='slider']"

        def shown() -> list[Any]:
            return [slider for slider in self.driver.find_elements("xpath", path) if slider.is_displayed()]

        self.until(lambda: bool(shown()), f"a slider named {name}")
        shown()[0].send_keys(keys)

    def until(self, holds: Callable[[], bool], what: str) -> None:
        """Wait until a condition holds."""
        last = time.monotonic() + _PATIENCE_S
        while not holds():
            assert time.monotonic() < last, f"{what} did not come; {self._told()}"
            time.sleep(0.05)

    def _told(self) -> str:
        """What the page says, and whether it still draws: without pictures it shows no news."""
        pictures = self.driver.execute_async_script(_COUNT_PICTURES, _COUNTED_MS)
        console = "\n".join(entry["message"] for entry in self.driver.get_log("browser"))
        return f"in {_COUNTED_MS} ms it drew {pictures} times; it says:\n{self.text}\nand to its console:\n{console}"

    def until_text(self, text: str) -> None:
        """Wait until a text is on the page."""
        self.until(lambda: text in self.text, repr(text))


def policy_ghost(browser: Browser) -> float:
    """The share of the picture in the blue of a subgoal that the policy set."""
    red, green, blue = _colours(browser)
    return float(((blue > red + 35) & (green > red + 15)).mean())


def operator_ghost(browser: Browser) -> float:
    """The share of the picture in the orange of a subgoal that an operator set."""
    red, green, blue = _colours(browser)
    return float(((red > blue + 45) & (green > blue + 10) & (red > green + 15)).mean())


def _colours(browser: Browser) -> np.ndarray:
    """Red, green and blue (3, height, width) of the window, without the panel."""
    picture = browser.picture().astype(int)
    return np.moveaxis(picture[:, : picture.shape[1] * 3 // 5], 2, 0)


@contextmanager
def open_browser(width: int = 1000, height: int = 700, options: tuple[str, ...] = ()) -> Iterator[Browser]:
    """A browser for the length of a block; the test is skipped where there is none, unless one is required."""
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    try:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service
    except ImportError:
        webdriver = None
    if webdriver is None or chromium is None or chromedriver is None:
        if os.environ.get(REQUIRED):
            pytest.fail(_MISSING)
        pytest.skip(_MISSING)
    settings = webdriver.ChromeOptions()
    settings.binary_location = chromium
    settings.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    drawn = () if os.environ.get(PICTURES) else _ROUGH
    for option in (*_OPTIONS, f"--window-size={width},{height}", *drawn, *options):
        settings.add_argument(option)
    with TemporaryDirectory() as folder:  # chromium leaves files behind
        driver = webdriver.Chrome(settings, Service(chromedriver, env=os.environ | {"TMPDIR": folder}))
        driver.set_page_load_timeout(_PATIENCE_S)
        driver.set_script_timeout(_PATIENCE_S)
        try:
            yield Browser(driver)
        finally:
            driver.quit()

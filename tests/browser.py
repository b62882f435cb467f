"""Headless Chromium over the WebDriver protocol (https://www.w3.org/TR/webdriver2/), with the standard library only."""

import base64
import json
import re
import subprocess
import tempfile
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

from patience import PATIENCE

__all__ = ["Browser"]

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of an element's reference, section 12.1 of the standard

_OPTIONS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
]  # fmt: skip


class Browser:
    """One window of a browser of its own; a context manager.

    Raises: FileNotFoundError where there is no chromedriver.
    """

    def __init__(self, width: int = 1300, height: int = 1000) -> None:
        self._profile = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        command = ["chromedriver", "--port=0"]
        try:
            self._driver = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, bufsize=1
            )
        except FileNotFoundError as error:
            raise FileNotFoundError("there is no chromedriver: python3 dev.py test installs it") from error
        assert self._driver.stdout is not None
        port = next(found[1] for line in self._driver.stdout if (found := re.search(r"on port (\d+)\.", line)))
        self._base = f"http://127.0.0.1:{port}/session"
        options = [*_OPTIONS, f"--user-data-dir={self._profile.name}", f"--window-size={width},{height}"]
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": options},
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        made = self._call("POST", "", {"capabilities": {"alwaysMatch": wanted}})
        self._base += f"/{made['sessionId']}"

    def __enter__(self) -> "Browser":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the browser."""
        try:
            self._call("DELETE", "")
        finally:
            self._driver.terminate()
            self._driver.wait(PATIENCE)
            self._profile.cleanup()

    def open(self, page: Path) -> None:
        """Load a file, and wait until it is loaded."""
        self._call("POST", "/url", {"url": page.resolve().as_uri()})

    def run(self, script: str, *arguments: object) -> Any:
        """Run a script and return its result; ``arguments[0]`` and so on are its arguments."""
        return self._call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def text(self, selector: str) -> str:
        """The visible text of the first element that a CSS selector finds."""
        return str(self.run("return document.querySelector(arguments[0]).innerText", selector))

    def texts(self, selector: str) -> list[str]:
        """The visible texts of all elements that a CSS selector finds."""
        return list(self.run("return [...document.querySelectorAll(arguments[0])].map(one => one.innerText)", selector))

    def type(self, selector: str, keys: str) -> None:
        """Type into an element, as a person does."""
        self._call("POST", f"/element/{self._element(selector)}/value", {"text": keys})

    def click(self, selector: str) -> None:
        """Click on an element, as a person does."""
        self._call("POST", f"/element/{self._element(selector)}/click", {})

    def console(self) -> list[str]:
        """The page's complaints since the last call: errors of scripts, and refusals by its policy."""
        return [entry["message"] for entry in self._call("POST", "/se/log", {"type": "browser"})]

    def media(self, **features: str) -> None:
        """Show the page as a reader with these preferences sees it: ``prefers_color_scheme="dark"``."""
        listed = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self._call("POST", "/goog/cdp/execute", {"cmd": "Emulation.setEmulatedMedia", "params": {"features": listed}})

    def screenshot(self) -> bytes:
        """The window as a PNG."""
        return base64.b64decode(self._call("GET", "/screenshot"))

    def _element(self, selector: str) -> str:
        found = self._call("POST", "/element", {"using": "css selector", "value": selector})
        return str(found[_ELEMENT])

    def _call(self, method: str, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, data, {"Content-Type": "application/json"}, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=120) as reply:
                return json.load(reply)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)["value"]["message"]) from error

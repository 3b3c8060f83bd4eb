"""A headless Chromium, driven by the DevTools protocol over a pair of pipes."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# Of everything that is waited for, in seconds; a first start on a busy machine takes long.
DEADLINE = 60


def find_chromium():
    """Return the path of Chromium; the environment variable CHROMIUM may name it. Skip without one."""
    given = os.environ.get("CHROMIUM")
    for name in (given,) if given else NAMES:
        path = shutil.which(name)
        if path:
            return path
    pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")


# The protocol wants the descriptors 3 and 4.
_START = """
import fcntl, os, sys
read, write = (fcntl.fcntl(int(each), fcntl.F_DUPFD, 10) for each in sys.argv[1:3])
os.dup2(read, 3)
os.dup2(write, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class ProtocolError(Exception):
    """Chromium refuses a command."""


class Chromium:
    """A browser of its own, without a profile; close it at the end.

    Parameters
    ----------
    folder : path
        For its profile; should be removed afterwards.
    *options : str
        Of its command line.
    """

    def __init__(self, folder, *options):
        path = find_chromium()
        to_read, write = os.pipe()
        read, to_write = os.pipe()
        self._log = open(f"{folder}/log", "wb")  # noqa: SIM115
        command = [
            path,
            "--headless=new",
            # Nothing comes from anywhere else; and root has no sandbox.
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--no-first-run",
            "--remote-debugging-pipe",
            f"--user-data-dir={folder}/profile",
            *options,
            "about:blank",
        ]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, str(to_read), str(to_write), *command],
            pass_fds=(to_read, to_write),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env={**os.environ, "HOME": str(folder)},
        )
        os.close(to_read)
        os.close(to_write)
        self._write, self._read = write, read
        self._rest = b""
        self._number = 0
        self.events = []

    def call(self, method, session=None, **parameters):
        """Send a command and return its result; events that come before are kept."""
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        end = time.monotonic() + DEADLINE
        while True:
            answer = self._receive(end)
            if answer.get("id") == number:
                if "error" in answer:
                    raise ProtocolError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            if "method" in answer:
                self.events.append(answer)

    def wait_for(self, method, session, wanted=lambda parameters: True):
        """Take the first event of this name out, waiting for it if need be; return its parameters."""
        end = time.monotonic() + DEADLINE
        while True:
            for event in self.events:
                ours = event["method"] == method and event.get("sessionId") == session
                if ours and wanted(event["params"]):
                    self.events.remove(event)
                    return event["params"]
            answer = self._receive(end)
            if "method" in answer:
                self.events.append(answer)

    def _receive(self, end):
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], max(0, end - time.monotonic()))
            data = os.read(self._read, 1 << 20) if ready else b""
            if not data:
                what = "has ended" if ready else "says nothing"
                with open(self._log.name, errors="replace") as log:
                    raise AssertionError(f"Chromium {what}: {log.read()[-2000:]}")
            self._rest += data
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def open(self, url=None, **metrics):
        """Return a new tab."""
        return Tab(self, url, **metrics)

    def close(self):
        try:
            os.close(self._write)
            self._process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        finally:
            os.close(self._read)
            self._log.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()


class Tab:
    """A page in a browser, in a profile of its own.

    Parameters
    ----------
    browser : Chromium
    url : str, optional
    width, height : int
    dark : bool
    """

    def __init__(self, browser, url=None, width=1000, height=800, dark=False):
        self._browser = browser
        self._context = browser.call("Target.createBrowserContext")["browserContextId"]
        target = browser.call(
            "Target.createTarget", url="about:blank", browserContextId=self._context
        )
        attached = browser.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self.call(f"{domain}.enable")
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        if url is not None:
            self.go(url)

    def call(self, method, **parameters):
        return self._browser.call(method, self._session, **parameters)

    def wait_for(self, method, wanted=lambda parameters: True):
        return self._browser.wait_for(method, self._session, wanted)

    def events(self, method):
        """Return the parameters of events that have come."""
        return [
            event["params"]
            for event in self._browser.events
            if event["method"] == method and event.get("sessionId") == self._session
        ]

    def go(self, url):
        """Go to a page, and wait until it is there."""
        with self.loading():
            self.call("Page.navigate", url=url)

    def loading(self):
        return _Loading(self)

    def run(self, script):
        """Return what JavaScript says in this page, a promise's outcome if it is one."""
        answer = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def text(self, selector="body"):
        """Return the text of an element, as it is shown."""
        return self.run(f"document.querySelector({json.dumps(selector)}).innerText")

    def click(self, selector):
        """Click on an element with the mouse, and wait until the next page is there."""
        script = f"""(() => {{
            const element = document.querySelector({json.dumps(selector)});
            element.scrollIntoView({{block: "center"}});
            const box = element.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2];
        }})()"""
        x, y = self.run(script)
        with self.loading():
            for kind in ("mousePressed", "mouseReleased"):
                self.call(
                    "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1
                )

    def press(self, key, code):
        """Press a key of the keyboard."""
        text = "\r" if key == "Enter" else ""
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                windowsVirtualKeyCode=code,
                **({"text": text} if text and kind == "keyDown" else {}),
            )

    def type(self, selector, text):
        """Replace the text of a field, as by typing."""
        self.run(f"document.querySelector({json.dumps(selector)}).select()")
        self.run(f"document.querySelector({json.dumps(selector)}).focus()")
        self.call("Input.insertText", text=text)

    def choose_file(self, selector, path):
        document = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=document, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def screenshot(self, path):
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        with open(path, "wb") as file:
            file.write(base64.b64decode(data))

    def close(self):
        self._browser.call("Target.disposeBrowserContext", browserContextId=self._context)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()


class _Loading:
    """Waits for the page that is loaded because of what is done inside."""

    def __init__(self, tab):
        self._tab = tab

    def __enter__(self):
        tab = self._tab
        tab._browser.events = [
            event for event in tab._browser.events if event["method"] != "Page.loadEventFired"
        ]

    def __exit__(self, kind, error, traceback):
        if kind is None:
            self._tab.wait_for("Page.loadEventFired")

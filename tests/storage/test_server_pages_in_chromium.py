"""The pages for people in a real browser: nothing runs, nothing deceives, everything can be done."""

import io
import json
import shutil
import tempfile
from contextlib import ExitStack
from urllib.parse import quote

import pytest
from chromium import Chromium

from encore.events.event_manager import EventManager
from encore.storage._http_server import Server
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.server import StoreApplication

pytestmark = pytest.mark.slow

HOSTILE = "<script>document.title = 'run'</script>\"'><img src=x onerror=alert(1)>"
ODD = "tab\tline\nnul\x00 \u202egpj.exe "

# Of the shop: not this computer, for a browser, and so neither Sec-Fetch-Site nor anything else is trusted.
HOSTS = "MAP shop.test 127.0.0.1, MAP evil.test 127.0.0.1"


@pytest.fixture(scope="module")
def browser():
    folder = tempfile.mkdtemp(prefix="encore-chromium-")
    try:
        with Chromium(folder, f"--host-resolver-rules={HOSTS}") as browser:
            yield browser
    finally:
        # What it has started may still write there for a moment.
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def store():
    store = DictMemoryStore(event_manager=EventManager())
    store.connect()
    for key in (HOSTILE, ODD, "..", "plain"):
        store.set(key, (io.BytesIO(b"data of it"), {"name": key, "type": "text/html"}))
    return store


@pytest.fixture
def site(store):
    with Server(StoreApplication(store, browse=True), port=0) as server:
        yield server


@pytest.fixture
def tab(browser):
    with browser.open() as tab:
        yield tab


def link(site, page, key, host=None):
    url = site.url if host is None else f"http://{host}:{site.port}/"
    return f"{url}browse/{page}?key={quote(key, safe='')}"


def test_hostile_key_is_text(tab, site):
    tab.go(site.url)
    assert HOSTILE in tab.text("table")
    assert tab.run("document.querySelectorAll('script, img').length") == 0
    tab.go(link(site, "key", HOSTILE))
    assert tab.text("h1") == HOSTILE
    assert json.loads(tab.text("pre"))["name"] == HOSTILE
    assert tab.run("document.querySelectorAll('script, img').length") == 0
    assert tab.run("document.title").startswith("<script>")


def test_what_is_invisible_is_shown(tab, site):
    tab.go(link(site, "key", ODD))
    assert tab.text("h1") == "tab\\tline\\nnul\\x00 \\u202egpj.exe\\x20"
    assert json.loads(tab.text("pre"))["name"] == ODD


INJECTED = """(() => {
    window.hasRun = false;
    const violated = new Promise(resolve => {
        document.addEventListener("securitypolicyviolation",
            event => resolve(event.effectiveDirective));
        setTimeout(resolve, 5000, "none");
    });
    const script = document.createElement("script");
    script.textContent = "window.hasRun = true";
    document.body.append(script);
    return window.hasRun ? "it has run" : violated;
})()"""


def test_policy_stops_an_injected_script(tab, site):
    tab.go(site.url)
    assert tab.run(INJECTED) == "script-src-elem"
    assert tab.run("window.hasRun") is False
    # It is the policy that does it.
    tab.call("Page.setBypassCSP", enabled=True)
    tab.go(site.url)
    assert tab.run(INJECTED) == "it has run"


def test_policy_stops_a_form_to_elsewhere_and_frames(tab, site):
    tab.go(site.url)
    script = """(() => {
        const violated = new Promise(resolve => {
            document.addEventListener("securitypolicyviolation",
                event => resolve(event.effectiveDirective));
            setTimeout(resolve, 5000, "none");
        });
        const form = document.createElement("form");
        form.action = "http://evil.test/";
        document.body.append(form);
        form.submit();
        return violated;
    })()"""
    assert tab.run(script) == "form-action"


def test_pages_are_as_they_are_meant_to_be_shown(tab, site):
    # The style is not stopped by the policy, and there is nothing else that would be.
    tab.go(site.url)
    for page in (site.url, f"{site.url}browse/upload", link(site, "key", HOSTILE)):
        tab.go(page)
        assert tab.run("getComputedStyle(document.body).maxWidth") == "1120px"
    wrong = [event["entry"]["text"] for event in tab.events("Log.entryAdded")]
    assert [text for text in wrong if "Policy" in text] == []


@pytest.mark.parametrize("width", [320, 1400])
def test_nothing_is_wider_than_the_window(browser, site, store, width):
    store.set("w" * 1024, (io.BytesIO(), {"w" * 2000: "w" * 2000}))
    pages = [site.url, f"{site.url}browse/upload", f"{site.url}?where=a"]
    pages += [link(site, page, "w" * 1024) for page in ("key", "delete", "upload")]
    with browser.open(width=width) as tab:
        for page in pages:
            tab.go(page)
            assert tab.run("document.documentElement.scrollWidth") <= width, page


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read(browser, site, dark):
    # WCAG 2.1, success criterion 1.4.3: contrast of at least 4.5.
    script = """(() => {
        const canvas = document.createElement("canvas").getContext("2d");
        const numbers = color => {
            canvas.clearRect(0, 0, 1, 1);
            canvas.fillStyle = color;
            canvas.fillRect(0, 0, 1, 1);
            return [...canvas.getImageData(0, 0, 1, 1).data];
        };
        const light = color => {
            const [r, g, b] = numbers(color).map(each => {
                each /= 255;
                return each <= .04045 ? each / 12.92 : ((each + .055) / 1.055) ** 2.4;
            });
            return .2126 * r + .7152 * g + .0722 * b;
        };
        const back = element => {
            for (; element; element = element.parentElement) {
                const color = getComputedStyle(element).backgroundColor;
                if (numbers(color)[3]) return color;
            }
        };
        const bad = [];
        for (const element of document.body.querySelectorAll("*")) {
            const own = [...element.childNodes].some(
                node => node.nodeType === Node.TEXT_NODE && node.textContent.trim());
            if (!own && element.tagName !== "INPUT") continue;
            const [a, b] = [light(getComputedStyle(element).color), light(back(element))];
            const contrast = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
            if (contrast < 4.5) bad.push([element.outerHTML, contrast]);
        }
        return bad;
    })()"""
    pages = [site.url, f"{site.url}browse/upload", f"{site.url}?where=a"]
    pages += [link(site, page, ODD) for page in ("key", "delete", "upload")]
    backs = set()
    with browser.open(dark=dark) as tab:
        for page in pages:
            tab.go(page)
            assert tab.run(script) == [], page
            backs.add(tab.run("getComputedStyle(document.body).backgroundColor"))
    assert backs == {"rgb(22, 22, 26)" if dark else "rgb(255, 255, 255)"}


def test_every_field_has_a_label(tab, site):
    script = """[...document.querySelectorAll("input:not([type=hidden]), textarea")]
        .filter(field => !field.labels.length).length"""
    for page in (site.url, f"{site.url}browse/upload", link(site, "upload", "plain")):
        tab.go(page)
        assert tab.run(script) == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "shop.test"])
def test_upload(tab, site, store, tmp_path, host):
    path = tmp_path / "a file.bin"
    path.write_bytes(bytes(range(256)) * 2000)
    tab.go(f"http://{host}:{site.port}/")
    tab.click("a[href='/browse/upload']")
    tab.type("#key", "new/ü <b>")
    tab.type("#metadata", '{"stars":\n 5}')
    tab.choose_file("#file", path)
    tab.click("button")
    assert tab.run("location.pathname") == "/browse/key"
    assert tab.text("h1") == "new/ü <b>"
    assert store.to_bytes("new/ü <b>") == path.read_bytes()
    assert store.get_metadata("new/ü <b>") == {"stars": 5}


def test_upload_takes_the_name_of_the_file(tab, site, store, tmp_path):
    path = tmp_path / 'quo"te ü.txt'
    path.write_bytes(b"")
    tab.go(f"{site.url}browse/upload")
    tab.choose_file("#file", path)
    tab.click("button")
    assert tab.text("h1") == 'quo"te ü.txt'
    assert store.to_bytes('quo"te ü.txt') == b""


def test_upload_overwrites_only_if_told_to(tab, site, store, tmp_path):
    path = tmp_path / "plain"
    path.write_bytes(b"new data")
    tab.go(f"{site.url}browse/upload")
    tab.choose_file("#file", path)
    tab.click("button")
    assert tab.text("h1") == "Precondition Failed"
    assert store.to_bytes("plain") == b"data of it"
    tab.go(f"{site.url}browse/upload")
    tab.run("document.querySelector('#overwrite').click()")
    tab.choose_file("#file", path)
    tab.click("button")
    assert tab.text("h1") == "plain"
    assert store.to_bytes("plain") == b"new data"


def test_large_file_that_is_refused_is_refused_on_a_page(tab, site, store, tmp_path):
    path = tmp_path / "plain"
    with open(path, "wb") as file:
        file.truncate(50_000_000)
    tab.go(f"{site.url}browse/upload")
    tab.choose_file("#file", path)
    tab.click("button")
    assert tab.text("h1") == "Precondition Failed"
    assert store.to_bytes("plain") == b"data of it"


@pytest.mark.parametrize("key", [HOSTILE, ODD, ".."])
@pytest.mark.parametrize("host", ["127.0.0.1", "shop.test"])
def test_delete(tab, site, store, key, host):
    tab.go(link(site, "key", key, host))
    tab.click("a.danger")
    assert tab.text("h1") == "Delete this key?"
    assert store.exists(key)
    tab.click("button")
    assert tab.text("h1") == "Deleted"
    assert not store.exists(key)
    assert len(list(store.keys())) == 3


def test_replace(tab, site, store, tmp_path):
    (tmp_path / "new").write_bytes(b"new data")
    tab.go(link(site, "key", ODD))
    tab.click("a[href*=upload][href*=key]")
    tab.choose_file("#file", tmp_path / "new")
    tab.click("button")
    assert store.to_bytes(ODD) == b"new data"
    assert store.get_metadata(ODD)["name"] == ODD


def test_search_by_the_keyboard(tab, site, store):
    store.set("other", (io.BytesIO(), {"n": 1}))
    tab.go(site.url)
    # All keys, Upload, prefix, metadata
    for _ in range(4):
        tab.press("Tab", 9)
    assert tab.run("document.activeElement.id") == "where"
    assert tab.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    tab.call("Input.insertText", text="n=1.0")
    with tab.loading():
        tab.press("Enter", 13)
    assert tab.text("tbody th") == "other"
    assert tab.run("document.querySelectorAll('tbody tr').length") == 1


def test_paging(tab, site, store):
    for number in range(150):
        store.set(f"page/{number:03}", (io.BytesIO(), {}))
    tab.go(f"{site.url}?prefix=page/")
    seen = tab.run("[...document.querySelectorAll('tbody th')].map(each => each.innerText)")
    tab.click("a[rel=next]")
    seen += tab.run("[...document.querySelectorAll('tbody th')].map(each => each.innerText)")
    assert seen == [f"page/{number:03}" for number in range(150)]
    assert tab.run("document.querySelector('a[rel=next]')") is None


def test_download(browser, tab, site, tmp_path):
    for number, (key, name) in enumerate(
        ((HOSTILE, "script_"), ("..", "data"), ("plain", "plain"))
    ):
        tab.go(link(site, "key", key))
        folder = tmp_path / str(number)
        folder.mkdir()
        browser.call(
            "Browser.setDownloadBehavior",
            behavior="allow",
            browserContextId=tab._context,
            downloadPath=str(folder),
            eventsEnabled=True,
        )
        tab.run("document.querySelector('a[href*=download]').click()")
        begun = browser.wait_for("Browser.downloadWillBegin", None)
        done = browser.wait_for(
            "Browser.downloadProgress", None, lambda progress: progress["state"] != "inProgress"
        )
        assert done["state"] == "completed"
        assert [file.read_bytes() for file in folder.iterdir()] == [b"data of it"]
        assert begun["suggestedFilename"].startswith(name)
        # It was not shown.
        assert "/browse/key" in tab.run("location.pathname")


def evil(target, field):
    """A site that makes whoever looks at it send a form to another one."""

    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/html")])
        page = f"""<form method="post" action="{target}" enctype="multipart/form-data">{field}
            <button>Win</button></form>"""
        return [page.encode()]

    return application


@pytest.mark.parametrize("host", ["127.0.0.1", "shop.test"])
def test_form_of_another_site_is_refused(tab, site, store, host):
    # A stolen token does not help either: here it is that of the page itself.
    tab.go(link(site, "delete", "plain", host))
    token = tab.run("document.querySelector('[name=token]').outerHTML")
    with ExitStack() as stack:
        application = evil(link(site, "delete", "plain", host), token)
        other = stack.enter_context(Server(application, port=0))
        tab.go(f"http://evil.test:{other.port}/")
        tab.click("button")
        assert tab.text("h1") == "Forbidden"
        assert tab.run("location.port") == str(site.port)
    assert store.exists("plain")


def test_no_other_site_can_show_it_in_a_frame(tab, site):
    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/html")])
        return [f"<iframe src='{site.url}'></iframe>".encode()]

    with Server(application, port=0) as other:
        tab.go(f"http://evil.test:{other.port}/")
    entries = [event["entry"]["text"] for event in tab.events("Log.entryAdded")]
    assert any("frame-ancestors" in text or "X-Frame-Options" in text for text in entries), entries


def test_read_only_store_has_no_forms_that_change_it(tab, store):
    with Server(StoreApplication(store, readonly=True, browse=True), port=0) as site:
        tab.go(site.url)
        assert "Upload" not in tab.text()
        tab.go(link(site, "key", "plain"))
        assert tab.run("document.querySelectorAll('form').length") == 0
        tab.go(link(site, "delete", "plain"))
        assert tab.text("h1") == "Forbidden"


def test_user_logs_in_and_gets_pages_of_their_own(tab, store):
    from encore.storage.prefix_store import PrefixStore

    def view(whole, user):
        return PrefixStore(whole, f"{user}/")

    store.set("ann/hers", (io.BytesIO(), {}))
    application = StoreApplication(store, lambda name, password: True, browse=True, view=view)
    with Server(application, port=0) as site:
        tab.go(site.url.replace("//", "//ann:secret@"))
        assert tab.text("tbody th") == "hers"
        tab.click("tbody a")
        assert tab.text("h1") == "hers"
        assert "logged in as ann" in tab.text("header")
        tab.click("a.danger")
        tab.click("button")
        assert tab.text("h1") == "Deleted"
    assert not store.exists("ann/hers")

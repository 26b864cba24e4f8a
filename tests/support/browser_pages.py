"""Pages in a real browser: what every one of them must keep to, and hostile texts to show."""

import contextlib

HOSTILE = (
    "<script>document.title='ran'</script></textarea><img src=x onerror=\"document.title='ran'\">"
)
TAGS = "<bbox>[20,20,150,150]</bbox>, <points>[[84,84]]</points>, <labels>[1]</labels>"
ANSWER = f"<think>{HOSTILE}</think> {TAGS}"
WIDTHS = {"desktop": 1280, "narrow": 390}


@contextlib.contextmanager
def watched_page(browser, width: int, height: int = 900, scheme: str = "light"):
    """A page; its console must have no error at the end, and it may ask only this machine."""
    size, faults = {"width": width, "height": height}, []
    page = browser.new_page(viewport=size, color_scheme=scheme)
    page.on(
        "console", lambda message: faults.append(message.text) if message.type == "error" else None
    )
    page.on("pageerror", lambda error: faults.append(str(error)))
    own = ("http://127.0.0.1", "file:", "data:", "blob:")
    page.on(
        "request",
        lambda request: None if request.url.startswith(own) else faults.append(request.url),
    )
    yield page
    assert faults == []
    assert page.title() != "ran"
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), (
        "no sideways scrolling"
    )
    page.close()

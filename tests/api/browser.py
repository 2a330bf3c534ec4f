"""A person at the dashboard: `python -m tests.api.browser URL FOLDER STEP…` does what the steps say in Chromium.

Steps: `page NAME`, `move FROM PID TO`, `cancel FROM PID TO`, `drain HOST`. Every page is kept as a picture in FOLDER;
an error that the page told the console of is a failure.
"""

import sys
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
LONG_MS = 90_000
# Whatever the page looks up by itself takes its time, as from a busy server: a button must not depend on it.
SLOW_LOOKS = """() => {
  const quick = window.fetch;
  window.fetch = async (path, options = {}) => {
    if ((options.method ?? "GET") === "GET") await new Promise((done) => setTimeout(done, 1000));
    return quick(path, options);
  };
}"""
PHONE = {"width": 390, "height": 800}


def move(page: Page, source: str, pid: str, destination: str, *, bandwidth: str = "") -> None:
    """Check first, then start."""
    page.goto(page.url.partition("#")[0] + f"#/move/{source}/{pid}")
    page.locator('select[name="to"]').select_option(destination)
    if bandwidth:
        page.locator('input[name="bandwidth"]').fill(bandwidth)
    page.get_by_role("button", name="Check first").press("Enter")
    expect(page.get_by_text("It can move.")).to_be_visible(timeout=LONG_MS)
    page.get_by_role("button", name="Start the migration").press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Migration", timeout=LONG_MS)


def act(page: Page, words: list[str], folder: Path) -> None:
    match words:
        case ["page", name]:
            page.goto(page.url.partition("#")[0] + f"#/{name}")
            expect(page.get_by_role("heading", level=1)).to_be_visible(timeout=LONG_MS)
        case ["move", source, pid, destination]:
            move(page, source, pid, destination)
            expect(page.locator("h1 .badge")).to_have_text("done", timeout=LONG_MS)
            expect(page.get_by_role("heading", level=2).first).to_contain_text("Downtime")
            expect(page.get_by_role("img", name="parts of the downtime")).to_be_visible()
        case ["cancel", source, pid, destination]:
            page.evaluate(SLOW_LOOKS)
            move(page, source, pid, destination, bandwidth="1MB")
            page.get_by_role("button", name="Cancel").press("Enter")
            expect(page.locator("h1 .badge")).to_have_text("cancelled", timeout=LONG_MS)
        case ["drain", host]:
            page.goto(page.url.partition("#")[0] + f"#/drains/new/{host}")
            page.get_by_role("button", name="Plan it").press("Enter")
            expect(page.get_by_role("heading", name="The plan")).to_be_visible(timeout=LONG_MS)
            page.screenshot(path=folder / "plan.png", full_page=True)
            page.get_by_role("button", name="Start the drain").press("Enter")
            expect(page.locator("article .badge").first).to_have_text("done", timeout=LONG_MS)
        case _:
            raise SystemExit(f"no such step: {words}")
    page.screenshot(path=folder / f"{'-'.join(words)}.png", full_page=True)


def main(url: str, folder: Path, steps: list[list[str]]) -> None:
    errors: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=ARGUMENTS)
        for scheme, size in (("light", {"width": 1280, "height": 900}), ("dark", PHONE)):
            page = browser.new_page(color_scheme=scheme, viewport=size)  # type: ignore[arg-type]
            page.on(
                "console", lambda said: errors.append(f"{said.text}: {said.location}") if said.type == "error" else None
            )
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.goto(url)
            expect(page.get_by_role("heading", level=1)).to_be_visible(timeout=LONG_MS)
            (folder / scheme).mkdir(exist_ok=True)
            for words in steps if scheme == "light" else [step for step in steps if step[0] == "page"]:
                act(page, words, folder / scheme)
                wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
                assert wide <= 0, f"{words}: {scheme}: the page is {wide} pixels too wide"
            page.close()
        browser.close()
    assert errors == [], errors


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), [step.split() for step in sys.argv[3:]])

"""A browser in a microVM, driven by Playwright while people watch, with a video of it all.

    pip install smolvm playwright
    python browser_session.py https://example.com
"""

import sys

from smolvm import BrowserSession, BrowserSessionConfig, SmolVMError


def main() -> None:
    url = sys.argv[1] if len(sys.argv) > 1 else "https://example.com"
    config = BrowserSessionConfig(
        mode="live",
        record_video=True,
        viewport={"width": 1440, "height": 900},
    )
    with BrowserSession(config) as session:
        print(f"Session: {session.session_id}")
        print(f"CDP URL: {session.cdp_url}")
        print(f"Live URL: {session.live_url}")

        browser = session.connect_playwright()
        context = browser.contexts[0] if browser.contexts else browser.new_context()
        page = context.pages[0] if context.pages else context.new_page()
        page.goto(url, wait_until="domcontentloaded")
        print(f"Title: {page.title()}")

        print(f"Screenshot: {session.screenshot('screenshot.png')}")
        artifacts = session.artifacts_dir
    # The video is complete once the session has ended.
    print(f"Artifacts: {artifacts / 'guest-artifacts.tar.gz'}")


if __name__ == "__main__":
    try:
        main()
    except SmolVMError as error:
        sys.exit(f"error: {error}")

"""The dashboard page in a real Chromium, against a fleet with the real model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect

from tests.e2e.conftest import Fleet
from tests.support.browser import accessibility_problems, chromium

pytestmark = [
    pytest.mark.stage("clients"),
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.requires("chromium"),
]
VIEWS = ("overview", "missions", "canaries", "integration", "alerts", "memory", "playground")
DESKTOP, PHONE = (1440, 900), (390, 844)
WAIT_MS = 30_000
HANDBOOK = "The lighthouse keeper is called Amara. The harbour has nine cranes. Boats go at dawn."


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium."""
    with chromium() as running:
        yield running


class Visit:
    """One page, and what its console said.

    Attributes:
        page: The page.
        errors: Errors of the console, among them violations of the content security policy.
    """

    def __init__(self, context: BrowserContext, address: str) -> None:
        self.errors: list[str] = []
        self.page: Page = context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(address)

    def _note(self, message: ConsoleMessage) -> None:
        # Chromium reports refused requests, such as one with a wrong key, as errors too.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.errors.append(message.text)

    def show(self, view: str) -> None:
        """Go to a view by its link."""
        self.page.locator(f"nav.views a[href='#{view}']").click()
        expect(self.page.locator(f"#{view}-title")).to_be_focused()

    def sign_in(self, key: str) -> None:
        """Give a key in the page's form."""
        self.page.get_by_role("button", name="Sign in").first.click()
        self.page.get_by_label("API key").fill(key)
        self.page.locator("#sign-in-form").get_by_role("button", name="Sign in").click()


@contextmanager
def visiting(
    browser: Browser,
    fleet: Fleet,
    size: tuple[int, int] = DESKTOP,
    theme: str = "light",
    *,
    as_operator: bool = True,
) -> Iterator[Visit]:
    """Open the page, by default as an operator; its console has no error at the end."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if theme == "dark" else "light",
        bypass_csp=False,
    )
    try:
        visit = Visit(context, fleet.http)
        expect(visit.page.locator("#live-text")).to_have_text("live", timeout=WAIT_MS)
        if as_operator:
            visit.sign_in(fleet.operator_key_file.read_text().strip())
            account = visit.page.locator("#account")
            expect(account).to_have_text("Sign out operator", timeout=WAIT_MS)
        yield visit
        assert visit.errors == []
    finally:
        context.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_every_view_is_accessible(
    browser: Browser, fleet: Fleet, size: tuple[int, int], theme: str
) -> None:
    """axe-core finds nothing on any view, and no view is wider than the screen."""
    problems = []
    with visiting(browser, fleet, size, theme) as visit:
        for view in VIEWS:
            visit.show(view)
            visit.page.wait_for_timeout(300)  # charts are drawn after the layout
            wide = visit.page.evaluate("document.documentElement.scrollWidth - innerWidth")
            problems += [f"{view}: {one}" for one in accessibility_problems(visit.page)]
            problems += [f"{view}: {wide} px wider than the screen"] if wide > 0 else []

    assert problems == [], "\n".join(problems)


def test_overview_shows_the_fleet(browser: Browser, fleet: Fleet) -> None:
    """The grid has the five missions; served ones are serving; processes have their memory."""
    with visiting(browser, fleet) as visit:
        cells = visit.page.locator(".mission-cell")
        expect(cells).to_have_count(5)
        for name in ("router", "memory"):
            expect(cells.filter(has_text=name).first).to_contain_text("Serving")
        processes = visit.page.get_by_role("region", name="Processes of the fleet")
        expect(processes.get_by_role("row").filter(has_text="router-sidecar")).to_contain_text(
            "MiB"
        )
        expect(processes).not_to_contain_text("No metrics")
        expect(visit.page.locator("#tile-latency")).to_be_visible()


def test_page_without_a_key_shows_what_a_user_may_see(browser: Browser, fleet: Fleet) -> None:
    """Canaries are an operator's; a wrong key is refused in words; the right one opens them."""
    with visiting(browser, fleet, as_operator=False) as visit:
        visit.show("canaries")
        expect(visit.page.locator("#canaries")).to_contain_text("operators only")
        visit.sign_in("bem_wrong")
        expect(visit.page.locator("#sign-in-error")).to_contain_text("unknown or has expired")
        visit.page.get_by_label("API key").fill(fleet.operator_key_file.read_text().strip())
        visit.page.keyboard.press("Enter")
        expect(visit.page.locator("#canaries")).to_contain_text("No canary yet")


def test_views_are_reached_by_keyboard(browser: Browser, fleet: Fleet) -> None:
    """The first Tab is the skip link; a link's Enter moves the focus to the view's title."""
    with visiting(browser, fleet, as_operator=False) as visit:
        keyboard = visit.page.keyboard
        keyboard.press("Tab")
        expect(visit.page.get_by_text("Skip to content")).to_be_focused()
        visit.page.locator("nav.views a[href='#missions']").focus()
        keyboard.press("Enter")
        expect(visit.page.locator("#missions-title")).to_be_focused()
        keyboard.press("Tab")
        keyboard.press("Tab")
        keyboard.press("Enter")
        expect(visit.page.get_by_role("button", name="B · online")).to_have_attribute(
            "aria-pressed", "true"
        )


def test_theme_is_kept(browser: Browser, fleet: Fleet) -> None:
    """A person's choice wins over the system's, also after the page is loaded again."""
    with visiting(browser, fleet, theme="light", as_operator=False) as visit:
        ground = "getComputedStyle(document.documentElement).backgroundColor"
        light = visit.page.evaluate(ground)
        visit.page.get_by_label("Theme").select_option("dark")
        dark = visit.page.evaluate(ground)
        visit.page.reload()

        assert visit.page.evaluate(ground) == dark != light


def test_gates_are_drawn_with_their_intervals(browser: Browser, fleet: Fleet) -> None:
    """Each measured gate of mission C has a drawing whose name says its figures."""
    with visiting(browser, fleet) as visit:
        visit.show("missions")
        visit.page.get_by_role("button", name="C · safety").click()
        drawn = visit.page.get_by_role("img", name="95 % interval")
        expect(drawn).to_have_count(6)
        assert "target at most 0.7" in (drawn.first.get_attribute("aria-label") or "")
        expect(visit.page.get_by_label("Series")).to_be_visible()


def test_chat_shows_plan_verdict_and_takes_feedback(browser: Browser, fleet: Fleet) -> None:
    """The router's answer streams, names its plan, version and verdict, and can be rated."""
    with visiting(browser, fleet) as visit:
        visit.show("playground")
        visit.page.locator("#model").select_option("router")
        visit.page.get_by_label("Message").fill("Name the capital of France.")
        visit.page.keyboard.press("Enter")
        answer = visit.page.locator(".message.assistant")
        expect(answer.locator("dl")).to_contain_text("allowed by the sidecar", timeout=60_000)
        expect(answer.locator(".plan .step").first).to_be_visible()
        expect(answer.locator("dl")).to_contain_text("stable track")
        answer.get_by_label("May be kept for learning").check()
        answer.get_by_role("button", name="Good answer").click()
        expect(answer.get_by_role("status")).to_contain_text("kept: rating")
        answer.get_by_text("Correct the answer").click()
        answer.get_by_label("What it should have said").fill("Paris.")
        answer.get_by_role("button", name="Send correction").click()
        expect(answer.get_by_role("status")).to_contain_text("correction")


def test_memory_session_is_read_and_cited(browser: Browser, fleet: Fleet) -> None:
    """A document that the page reads is cited under the answer, and can be forgotten."""
    with visiting(browser, fleet) as visit:
        visit.page.on("dialog", lambda dialog: dialog.accept())
        visit.show("memory")
        visit.page.get_by_label("Session", exact=True).fill("page-test")
        visit.page.get_by_label("Document", exact=True).fill("harbour")
        visit.page.get_by_label("Text", exact=True).fill(HANDBOOK)
        visit.page.get_by_role("button", name="Read into memory").click()
        expect(visit.page.get_by_role("heading", name="Session page-test")).to_be_visible()
        expect(visit.page.locator("#forget-page-test")).to_be_visible(timeout=WAIT_MS)
        visit.show("playground")
        visit.page.get_by_label("Sources from memory session").select_option("page-test")
        visit.page.get_by_label("Message").fill("What is the lighthouse keeper called?")
        visit.page.keyboard.press("Enter")
        sources = visit.page.locator(".message.assistant .sources")
        expect(sources).to_contain_text("Amara", timeout=60_000)
        expect(sources).to_contain_text("harbour, characters 0 to")
        visit.show("memory")
        visit.page.locator("#forget-page-test").click()
        expect(visit.page.locator("#forget-page-test")).to_have_count(0, timeout=WAIT_MS)


def test_canary_is_started_and_aborted_by_buttons(browser: Browser, fleet: Fleet) -> None:
    """The page follows the orchestrator from the request to the end; the reason is shown."""
    with visiting(browser, fleet) as visit:
        visit.page.on("dialog", lambda dialog: dialog.accept())
        visit.show("canaries")
        panel = visit.page.locator("#canaries section.card").filter(
            has=visit.page.get_by_role("heading", name="router")
        )
        panel.get_by_text("Start a canary").click()
        panel.get_by_label("Adapter to try").fill("no-such-adapter")
        panel.get_by_role("button", name="Start canary").click()
        expect(panel).to_contain_text("no-such-adapter", timeout=WAIT_MS)
        abort = panel.get_by_role("button", name="Abort")
        ended = panel.get_by_text("RolledBack", exact=True)
        expect(abort.or_(ended).first).to_be_visible()
        if abort.is_visible():
            abort.click()
        expect(ended).to_be_visible(timeout=WAIT_MS)

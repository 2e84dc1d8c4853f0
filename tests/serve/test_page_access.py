"""The page with a keyboard, a screen reader, on a small screen, and in dark and light colours."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from helpers.pages import OpenPage, choose, image_file, settle

pytest_plugins = ["helpers.browser"]


def findings(page: Page) -> list[str]:
    """Rules that axe finds broken seriously, with elements."""
    violations: list[dict[str, Any]] = Axe().run(page).response["violations"]
    return [f"{one['id']}: {one['nodes'][0]['html']}" for one in violations if one["impact"] in ("serious", "critical")]


def show_state(page: Page, state: str) -> None:
    """Bring the page into a state, with all that it can show there."""
    if state in ("classification", "detection", "segmentation"):
        choose(page, image_file(size=(300, 200)), image_file(f"{'long ' * 30}name.png"))
        if state == "classification":
            page.get_by_role("switch").check()
            expect(page.locator("#live")).to_contain_text("Heat map")
        elif state == "detection":
            page.get_by_label("Score").press("Home")
            page.get_by_role("list", name="Classes to show").get_by_role("button").last.click()
        else:
            expect(page.locator(".key").first).to_be_visible()
        page.get_by_text("As a table").click()
        expect(page.locator(".thumb[data-state=done]")).to_have_count(2)
    elif state == "failed":
        page.route("**/predict*", lambda route: route.abort())
        choose(page, {"name": "bad.png", "mimeType": "image/png", "buffer": b"no image"})
        page.locator("#files").set_input_files({"name": "a.pdf", "mimeType": "application/pdf", "buffer": b"%"})
        expect(page.locator("#banner")).to_be_visible()
        page.unroute_all()
    settle(page)


@pytest.mark.parametrize("state", ["empty", "classification", "detection", "segmentation", "failed"])
def test_axe_finds_nothing_serious_and_nothing_is_too_wide(open_page: OpenPage, state: str) -> None:
    task = state if state in ("detection", "segmentation") else "classification"
    page, _ = open_page(task, width=360)
    show_state(page, state)
    colours: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    for scheme in colours:
        page.emulate_media(color_scheme=scheme)
        assert findings(page) == []
    assert page.evaluate("() => document.documentElement.scrollWidth") == 360
    wide = """() => [...document.querySelectorAll("main *, header *")]
        .filter((each) => !each.closest(".scroll, .strip, svg, dialog") && each.getBoundingClientRect().right > 360.5)
        .map((each) => each.outerHTML.slice(0, 80))"""
    assert page.evaluate(wide) == []
    page.emulate_media(color_scheme="light")


def test_a_small_screen_goes_to_the_picture_when_a_class_is_selected(open_page: OpenPage) -> None:
    page, _ = open_page(width=360)
    choose(page, image_file())
    page.get_by_role("button", name="lynx").click()
    expect(page.locator("#frame")).to_be_in_viewport(ratio=0.9)


def test_dialogs_have_nothing_serious_either(open_page: OpenPage) -> None:
    page, fake = open_page()
    page.get_by_role("button", name="Use the camera").click()
    expect(page.get_by_role("button", name="Take it")).to_be_focused()
    assert findings(page) == []
    page.keyboard.press("Escape")
    fake.token = "secret"
    page.locator("#files").set_input_files([image_file()])
    expect(page.get_by_role("dialog", name="This server asks for a token")).to_be_visible()
    assert findings(page) == []


def focused(page: Page) -> str:
    """The focused element's name."""
    script = """() => {
        const element = document.activeElement;
        return element.getAttribute("aria-label") ?? element.labels?.[0]?.textContent ?? element.textContent.trim();
    }"""
    return str(page.evaluate(script))


def tab_to(page: Page, name: str) -> None:
    """Press the tab key until an element has the focus, which is to be seen."""
    passed: list[str] = []
    while name not in (passed or [""])[-1] and len(passed) < 25:
        page.keyboard.press("Tab")
        passed.append(focused(page))
    assert name in passed[-1], passed
    script = """() => {
        const element = document.activeElement;
        return getComputedStyle(element.closest(".segments label") ?? element).outlineStyle;
    }"""
    assert page.evaluate(script) != "none", name


def test_a_classifier_is_used_with_the_keyboard_alone(open_page: OpenPage) -> None:
    page, fake = open_page()
    page.keyboard.press("Tab")
    assert focused(page) == "Skip to the content"
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    tab_to(page, "Try an example")
    page.keyboard.press("Enter")
    expect(page.locator(".thumb")).to_be_focused()
    expect(page.locator("#after")).to_be_visible()
    tab_to(page, "Remove example")
    tab_to(page, "Add images")
    tab_to(page, "tabby")
    page.keyboard.press("Enter")
    expect(page.locator("#live")).to_have_text("Heat map of stage 4 for tabby")
    for name in ("Copy JSON", "Save picture"):
        tab_to(page, name)
    page.locator("#theme").focus()
    tab_to(page, "Grad-CAM")
    tab_to(page, "Stage 4")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#live")).to_have_text("Heat map of stage 3 for tabby")
    page.keyboard.press("Tab")
    page.keyboard.type("lynx")
    page.keyboard.press("Enter")
    expect(page.locator("#live")).to_have_text("Heat map of stage 3 for lynx")
    tab_to(page, "Opacity")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("() => document.activeElement.value") == "0.66"
    assert len(fake.asked) == 4
    tab_to(page, "example")
    page.keyboard.press("Delete")
    expect(page.get_by_role("button", name="Choose images")).to_be_focused()


def test_objects_are_gone_through_with_the_arrow_keys(open_page: OpenPage) -> None:
    page, _ = open_page("detection")
    choose(page, image_file())
    page.locator("#theme").focus()
    tab_to(page, "Score")
    page.keyboard.press("Home")
    tab_to(page, "cup2")
    page.keyboard.press("ArrowRight")
    assert focused(page) == "person1"
    page.keyboard.press("Space")
    tab_to(page, "cup71.0 %")  # the person is hidden
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    expect(page.locator(".object.lit")).to_have_text("spoon8.0 %")
    page.keyboard.press("Enter")
    expect(page.locator(".object.lit")).to_have_attribute("aria-pressed", "true")


def test_colours_are_the_systems_until_the_reader_chooses(open_page: OpenPage) -> None:
    page, _ = open_page()
    page.emulate_media(color_scheme="dark")
    background = "() => getComputedStyle(document.documentElement).backgroundColor"
    dark = page.evaluate(background)
    page.emulate_media(color_scheme="light")
    light = page.evaluate(background)
    assert dark != light
    button = page.locator("#theme")
    button.click()
    expect(button).to_have_attribute("aria-label", "Colours: light")
    button.click()
    expect(button).to_have_attribute("aria-label", "Colours: dark")
    page.reload()
    assert page.evaluate(background) == dark
    button.click()
    expect(button).to_have_attribute("aria-label", "Colours: as the system")
    assert page.evaluate(background) == light


def test_nothing_jumps_while_the_page_is_loaded(open_page: OpenPage) -> None:
    page, _ = open_page(width=360)
    shifts = """() => new Promise((done) => {
        const shifts = [];
        const observer = new PerformanceObserver((list) => shifts.push(...list.getEntries()));
        observer.observe({ type: "layout-shift", buffered: true });
        requestAnimationFrame(() => requestAnimationFrame(() => {
            shifts.push(...observer.takeRecords());
            done(shifts.reduce((sum, shift) => sum + shift.value, 0));
        }));
    })"""
    assert page.evaluate(shifts) < 0.01


def test_animations_are_for_those_who_want_them(open_page: OpenPage) -> None:
    page, _ = open_page()
    choose(page, image_file())
    names = "() => getComputedStyle(document.querySelector('.track span')).animationName"
    assert page.evaluate(names) == "none"
    page.emulate_media(reduced_motion="no-preference")
    assert page.evaluate(names) == "grow"
    page.emulate_media(reduced_motion="reduce")

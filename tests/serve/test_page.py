"""Images on the page: how they come, go to the server, and what is said if they do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from helpers.fake_server import Fake, model
from helpers.pages import OpenPage, choose, image_file, names

pytest_plugins = ["helpers.browser"]

TRANSFER = """([kind, target, files]) => {
    const data = new DataTransfer();
    for (const [name, type, bytes] of files) data.items.add(new File([new Uint8Array(bytes)], name, { type }));
    const options = { bubbles: true, cancelable: true, dataTransfer: data, clipboardData: data };
    const Kind = kind === "paste" ? ClipboardEvent : DragEvent;
    document.querySelector(target).dispatchEvent(new Kind(kind, options));
}"""


def transfer(page: Page, kind: str, *files: Any) -> None:
    """Let an event bring files to the page."""
    values = [[one["name"], one["mimeType"], list(one["buffer"])] for one in files]
    page.evaluate(TRANSFER, [kind, "main", values])


def test_an_image_is_sent_as_it_is_and_its_classes_are_shown(open_page: OpenPage) -> None:
    page, fake = open_page()
    expect(page).to_have_title("transxnet_tiny: classification")
    for fact in ("Classification, 8 classes", "224 × 224", "float32, fused", "best.safetensors"):
        expect(page.get_by_text(fact, exact=True)).to_be_visible()
    expect(page.get_by_role("heading", name="Try it on an image")).to_be_visible()
    file = image_file(size=(64, 48))
    choose(page, file)
    assert fake.asked == [{"query": {}, "name": "cat.png", "bytes": file["buffer"]}]
    expect(page.get_by_role("list", name="Most probable classes").get_by_role("listitem")).to_have_text(
        ["tabby87.3 %", "tiger cat6.4 %", "Egyptian cat2.2 %", "espresso1.0 %", "lynx< 0.1 %"]
    )
    expect(page.locator("#live")).to_have_text("cat.png: tabby 87.3 %, then tiger cat 6.4 %, Egyptian cat 2.2 %")
    expect(page.locator("#timing")).to_contain_text("Server 42 ms, round trip ")
    page.get_by_text("As a table").click()
    expect(page.get_by_role("row", name="tiger cat")).to_have_text("tiger cat0.064200")


def test_several_images_are_a_strip_to_go_between(open_page: OpenPage) -> None:
    page, fake = open_page()
    choose(page, *(image_file(f"{name}.png") for name in "abc"))
    expect(page.locator(".thumb[data-state=done]")).to_have_count(3)
    assert sorted(each["name"] for each in fake.asked) == ["a.png", "b.png", "c.png"]
    assert names(page) == ["a.png, done", "b.png, done", "c.png, done"]
    thumbs = page.locator(".thumb")
    thumbs.nth(0).focus()
    page.keyboard.press("ArrowRight")
    expect(thumbs.nth(1)).to_be_focused()
    expect(page.locator("#filename")).to_have_text("b.png")
    page.keyboard.press("End")
    expect(page.locator("#filename")).to_have_text("c.png")
    assert [each.get_attribute("tabindex") for each in thumbs.all()] == ["-1", "-1", "0"]
    page.keyboard.press("Delete")
    expect(thumbs.nth(1)).to_be_focused()
    expect(page.locator("#filename")).to_have_text("b.png")
    thumbs.nth(0).click()
    page.get_by_role("button", name="Remove a.png").click()
    page.get_by_role("button", name="Remove b.png").click()
    expect(page.get_by_role("button", name="Choose images")).to_be_focused()
    assert len(fake.asked) == 3


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_images_are_pasted_and_dropped(open_page: OpenPage, kind: str) -> None:
    page, fake = open_page()
    if kind == "drop":
        transfer(page, "dragenter", image_file())
        expect(page.get_by_text("Drop to add")).to_be_visible()
    transfer(page, kind, image_file("a.png"), image_file("b.png"))
    expect(page.locator(".thumb[data-state=done]")).to_have_count(2)
    expect(page.get_by_text("Drop to add")).to_be_hidden()
    assert len(fake.asked) == 2


def test_an_address_that_is_dropped_is_not_fetched(open_page: OpenPage) -> None:
    page, _ = open_page()
    transfer(page, "drop")
    expect(page.get_by_role("alert").get_by_text("Nothing was dropped that is a file")).to_be_visible()
    page.get_by_role("button", name="Close the message").click()
    expect(page.locator(".notice")).to_have_count(0)


def test_a_photograph_is_taken(open_page: OpenPage) -> None:
    page, fake = open_page()
    page.get_by_role("button", name="Use the camera").click()
    take = page.get_by_role("button", name="Take it")
    expect(take).to_be_focused()
    take.click()
    expect(page.locator(".thumb[data-state=done]")).to_have_count(1)
    assert fake.asked[0]["name"].startswith("photograph ") and fake.asked[0]["bytes"][:3] == b"\xff\xd8\xff"
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.locator("#video")).to_have_js_property("srcObject", None)


def test_there_is_no_button_for_a_camera_that_is_not_there(open_page: OpenPage) -> None:
    page, _ = open_page(script="Object.defineProperty(navigator, 'mediaDevices', { value: undefined });")
    expect(page.locator("[data-unknown]")).to_have_count(0)
    expect(page.get_by_role("button", name="Use the camera")).to_have_count(0)


@pytest.mark.parametrize("task", ["classification", "detection", "segmentation"])
def test_there_is_an_example(open_page: OpenPage, task: str) -> None:
    page, fake = open_page(task)
    page.get_by_role("button", name="Try an example").click()
    expect(page.locator(".thumb[data-state=done]")).to_have_count(1)
    assert fake.asked[0]["bytes"][:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("file", "limits", "message"),
    [
        (image_file("big.png"), {"bytes": 1000}, "big.png has 0.0 MB, and the server takes up to 0.0 MB"),
        (
            {"name": "a.pdf", "mimeType": "application/pdf", "buffer": b"%PDF"},
            {},
            "a.pdf is of the type application/pdf",
        ),
        ({"name": "a.png", "mimeType": "image/png", "buffer": b""}, {}, "a.png is empty"),
        (image_file("wide.png", (300, 10)), {"pixels": 2000}, "0.0 megapixels, and the server takes up to 0.0"),
    ],
)
def test_what_the_server_would_refuse_is_not_sent(
    open_page: OpenPage, file: Any, limits: dict[str, int], message: str
) -> None:
    described = model("classification") | {"limits": limits}
    page, fake = open_page(server={"model": described})
    choose(page, file)
    expect(page.get_by_role("alert").get_by_text(message)).to_be_visible()
    assert fake.asked == []


def test_a_name_of_a_file_is_text(open_page: OpenPage) -> None:
    name = "<img src=x onerror=document.body.remove()>.png"
    page, fake = open_page()
    choose(page, image_file(name))
    expect(page.locator("#filename")).to_have_text(name)
    choose(page, {"name": name, "mimeType": "text/html", "buffer": b"<b>"})
    expect(page.locator(".notice p")).to_contain_text(name)
    assert fake.asked[0]["name"] == name
    assert page.locator("img[src=x]").count() == 0


def test_an_error_is_shown_with_its_image(open_page: OpenPage) -> None:
    page, fake = open_page()
    choose(page, {"name": "bad.png", "mimeType": "image/png", "buffer": b"no image"}, image_file("good.png"))
    failure = page.get_by_role("alert").filter(has_text="This image cannot be read")
    expect(failure).to_contain_text("it is no image. Send another one.")
    expect(page.locator("#after")).to_be_hidden()
    expect(failure.get_by_role("button")).to_have_count(0)  # another try would end the same
    page.get_by_role("button", name="good.png, done").click()
    expect(page.locator("#after")).to_be_visible()
    expect(failure).to_have_count(0)
    fake.refuse(500, "failed", "it failed.")
    choose(page, image_file("again.png"))
    expect(page.locator(".failure")).to_contain_text("it failed.")
    page.locator(".failure button").click()
    expect(page.locator("#after")).to_be_visible()
    assert [each["name"] for each in fake.asked].count("again.png") == 1  # the refused one is not counted


def busy(fake: Fake, times: int) -> None:
    """Refuse requests, with a pause that only the page's clock lets pass: it is longer than any test."""
    for _ in range(times):
        fake.refuse(503, "overloaded", "64 images are waiting already; try again soon.", Retry_After="60")


def test_a_busy_server_is_asked_again(open_page: OpenPage) -> None:
    page, fake = open_page(clock=True)
    busy(fake, 2)
    page.locator("#files").set_input_files(image_file())
    expect(page.get_by_text("The server is busy. Trying again in 60 s (1 of 3).")).to_have_count(2)  # also announced
    page.get_by_role("switch", name="Grad-CAM").check()  # before there is a result
    page.clock.fast_forward(60_000)
    expect(page.locator("#state")).to_have_text("The server is busy. Trying again in 60 s (2 of 3).")
    page.clock.fast_forward(60_000)
    expect(page.locator("#after")).to_be_visible()
    expect(page.locator("#live")).to_have_text("Heat map of stage 4 for tabby")


def test_a_server_that_stays_busy_is_given_up_until_the_reader_wants_it(open_page: OpenPage) -> None:
    page, fake = open_page(clock=True)
    busy(fake, 4)
    page.locator("#files").set_input_files(image_file())
    for attempt in (1, 2, 3):
        expect(page.locator("#state")).to_contain_text(f"({attempt} of 3)")
        page.clock.fast_forward(60_000)
    expect(page.locator(".failure")).to_contain_text("64 images are waiting already")
    page.locator(".failure button").click()
    expect(page.locator("#after")).to_be_visible()


def test_a_token_is_asked_for_and_kept_in_the_tab(open_page: OpenPage) -> None:
    page, fake = open_page()
    fake.token = "secret"
    page.locator("#files").set_input_files([image_file("a.png"), image_file("b.png")])
    dialog = page.get_by_role("dialog", name="This server asks for a token")
    expect(dialog.get_by_label("Token")).to_be_focused()
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    expect(dialog.get_by_role("alert")).to_have_text("The server did not accept this token.")
    dialog.get_by_label("Token").fill("secret")
    dialog.get_by_role("button", name="Continue").click()
    expect(page.locator(".thumb[data-state=done]")).to_have_count(2)
    page.reload()
    expect(page.get_by_text("best.safetensors")).to_be_visible()
    expect(dialog).to_have_count(0)
    assert page.evaluate("() => [sessionStorage.length, localStorage.length]") == [1, 0]


def test_without_a_token_the_image_stays_to_try_again(open_page: OpenPage) -> None:
    page, fake = open_page()
    fake.token = "secret"
    page.locator("#files").set_input_files(image_file())
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".failure")).to_contain_text("A token is needed")
    page.locator(".failure button").click()
    page.get_by_role("textbox", name="Token").fill("secret")
    page.keyboard.press("Enter")
    expect(page.locator("#after")).to_be_visible()


def test_a_server_that_is_not_reached_is_tried_again(open_page: OpenPage) -> None:
    page, fake = open_page()
    page.context.set_offline(True)
    choose(page, image_file())
    banner = page.get_by_role("alert").filter(has_text="The server cannot be reached. See whether it runs")
    expect(banner).to_be_visible()
    with page.expect_event("requestfailed"):
        banner.get_by_role("button", name="Try again").click()
    expect(banner).to_be_visible()
    assert not fake.asked
    page.context.set_offline(False)  # the browser notices
    expect(page.locator("#after")).to_be_visible()
    expect(banner).to_have_count(0)


def test_a_server_that_is_not_there_at_first_is_waited_for(open_page: OpenPage) -> None:
    page, _ = open_page()
    page.route("**/model", lambda route: route.abort())
    page.reload()
    page.locator("#files").set_input_files(image_file())
    expect(page.locator("#task")).to_have_text("Not connected")
    expect(page.get_by_text("Waiting for the server…")).to_be_visible()
    page.unroute("**/model")
    page.locator("#banner-retry").click()
    expect(page.locator("#after")).to_be_visible()


def test_results_are_copied_and_saved(open_page: OpenPage, tmp_path: Path) -> None:
    page, _ = open_page(permissions=["clipboard-read", "clipboard-write"], clock=True)
    choose(page, image_file("a.png"), image_file("b.png"))
    expect(page.locator(".thumb[data-state=done]")).to_have_count(2)
    page.locator("#copy").dblclick()
    expect(page.locator("#live")).to_have_js_property("textContent", "Copied\u00a0")  # for the second time
    page.clock.fast_forward(1500)
    expect(page.locator("#copy")).to_have_text("Copy JSON")
    copied = json.loads(page.evaluate("() => navigator.clipboard.readText()"))
    assert copied["task"] == "classification" and copied["seconds"] == {"total": 0.042}
    assert copied["predictions"][0]["answers"][0] == {"class": "tabby", "probability": 0.8731}
    for button, name, images in (("Save JSON", "a.json", ["a.png"]), ("Save all", "results.json", ["a.png", "b.png"])):
        with page.expect_download() as download:
            page.get_by_role("button", name=button).click()
        assert download.value.suggested_filename == name
        download.value.save_as(tmp_path / name)
        assert [one["image"] for one in json.loads((tmp_path / name).read_text())["predictions"]] == images
    with page.expect_download() as download:
        page.get_by_role("button", name="Save picture").click()
    assert download.value.suggested_filename == "a result.png"


def test_without_a_clipboard_the_text_is_there_to_copy(open_page: OpenPage) -> None:
    page, _ = open_page(script="Object.defineProperty(navigator, 'clipboard', { value: undefined });")
    choose(page, image_file())
    page.get_by_role("button", name="Copy JSON").click()
    dialog = page.get_by_role("dialog", name="Copy the selected text")
    text = dialog.get_by_role("textbox")
    expect(text).to_be_focused()
    selected = page.evaluate("() => document.activeElement.value.slice(0, document.activeElement.selectionEnd)")
    assert json.loads(selected)["task"] == "classification"
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)

"""Results of each task on the page."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from helpers.fake_server import ellipse, model, png, run_lengths
from helpers.pages import OpenPage, choose, image_file, module, overlay_pixel, settle

pytest_plugins = ["helpers.browser"]

FIRST, SECOND = (61, 90, 128), (224, 122, 95)  # of the model's colours


def set_slider(slider: Locator, value: float) -> None:
    slider.evaluate(
        "(slider, value) => { slider.value = value; for (const type of ['input', 'change']) "
        "slider.dispatchEvent(new Event(type, { bubbles: true })); }",
        value,
    )


def explained(page: Page) -> None:
    expect(page.locator("#busy")).to_be_hidden()
    settle(page)


def test_a_heat_map_is_asked_for_once_for_each_stage_and_class(open_page: OpenPage) -> None:
    page, fake = open_page()
    choose(page, image_file(size=(200, 100)))
    assert overlay_pixel(page, 0.5, 0.4)[3] == 0
    expect(page.get_by_label("Stage 1")).to_be_disabled()
    page.get_by_role("switch", name="Grad-CAM").check()
    expect(page.locator("#live")).to_have_text("Heat map of stage 4 for tabby")
    assert fake.asked[1]["query"] == {"explain": "gradcam", "stage": "4", "class": "tabby"}
    warm = overlay_pixel(page, 0.5, 0.4)
    assert warm[0] > 200 and warm[3] > 120
    assert overlay_pixel(page, 0.1, 0.5)[:3] == (0, 0, 0)  # outside of what the network saw
    page.get_by_label("Stage 2").check()
    expect(page.locator("#live")).to_have_text("Heat map of stage 2 for tabby")
    page.get_by_role("button", name="tiger cat").click()
    expect(page.get_by_role("combobox", name="Class")).to_have_value("tiger cat")
    expect(page.get_by_role("button", name="tiger cat")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#live")).to_have_text("Heat map of stage 2 for tiger cat")
    assert [each["query"] for each in fake.asked[2:]] == [
        {"explain": "gradcam", "stage": "2", "class": "tabby"},
        {"explain": "gradcam", "stage": "2", "class": "tiger cat"},
    ]
    page.get_by_role("button", name="tabby").click()
    page.get_by_label("Stage 4").check()
    set_slider(page.get_by_label("Opacity"), 0)
    assert overlay_pixel(page, 0.5, 0.4)[3] == 0
    page.get_by_role("switch").uncheck()
    page.get_by_role("switch").check()
    explained(page)
    assert len(fake.asked) == 4


def test_a_class_of_the_heat_map_is_any_of_the_networks(open_page: OpenPage) -> None:
    page, fake = open_page()
    choose(page, image_file())
    page.get_by_role("switch").check()
    expect(page.locator("#live")).to_have_text("Heat map of stage 4 for tabby")
    field = page.get_by_role("combobox", name="Class")
    assert page.locator("#classes option").count() == 7  # two share a name
    for name, asked in (("space shuttle", "space shuttle"), ("crane", "6")):  # which an index keeps apart
        field.fill(name)
        field.press("Enter")
        expect(page.locator("#live")).to_have_text(f"Heat map of stage 4 for {name}")
        assert fake.asked[-1]["query"]["class"] == asked
    field.fill("dragon")
    field.press("Enter")
    expect(page.get_by_role("alert").get_by_text("The network has no class “dragon”.")).to_be_visible()


def test_a_heat_map_that_fails_leaves_the_classes(open_page: OpenPage) -> None:
    page, fake = open_page()
    choose(page, image_file())
    fake.refuse(422, "unsupported-option", "This network cannot be explained.")
    page.get_by_role("switch").check()
    expect(page.get_by_role("alert").get_by_text("This network cannot be explained.")).to_be_visible()
    expect(page.locator("#busy")).to_be_hidden()
    page.get_by_label("Stage 1").check()
    expect(page.locator("#live")).to_have_text("Heat map of stage 1 for tabby")
    expect(page.locator(".problem")).to_be_hidden()


def test_there_is_no_grad_cam_for_networks_without(open_page: OpenPage) -> None:
    described = model("classification") | {"supports": {"gradcam": False, "features": False}}
    page, _ = open_page(server={"model": described})
    choose(page, image_file())
    expect(page.get_by_role("switch")).to_have_count(0)
    expect(page.locator(".bar")).to_have_count(5)
    expect(page.locator("button.bar")).to_have_count(0)


def test_the_score_slider_filters_without_asking_again(open_page: OpenPage) -> None:
    page, fake = open_page("detection")
    choose(page, image_file(size=(400, 300)))
    assert [each["query"] for each in fake.asked] == [{"min_score": "0.05"}]
    objects = page.get_by_role("list", name="Objects").get_by_role("listitem")
    expect(objects).to_have_text(["person93.0 %", "cup71.0 %"])
    expect(page.locator("#live")).to_have_text("cat.png: 2 objects: 1 person, 1 cup")
    slider = page.get_by_label("Score")
    set_slider(slider, 0.3)
    expect(objects.locator("visible=true")).to_have_text(["person93.0 %", "cup71.0 %", "cup34.0 %"])
    expect(page.get_by_role("list", name="Classes to show").get_by_role("button")).to_have_text(["cup2", "person1"])
    expect(page.locator("#live")).to_have_text("3 objects at 30 % or above")
    set_slider(slider, 0.99)
    expect(page.get_by_text("Lower the score to see 4 more.")).to_be_visible()
    assert overlay_pixel(page, 0.3, 0.5)[3] == 0
    slider.focus()
    page.keyboard.press("ArrowLeft")
    expect(slider).to_have_attribute("aria-valuetext", "98 %")
    set_slider(slider, 0.05)
    expect(objects.locator("visible=true")).to_have_count(4)
    assert len(fake.asked) == 1


def test_objects_are_drawn_with_boxes_and_masks(open_page: OpenPage) -> None:
    page, _ = open_page("detection")
    choose(page, image_file(size=(400, 300)))
    inside, corner, edge = (0.3, 0.5), (0.11, 0.86), (0.1, 0.6)
    assert np.allclose(overlay_pixel(page, *inside)[:3], FIRST, atol=4) and 90 < overlay_pixel(page, *inside)[3] < 130
    assert overlay_pixel(page, *corner)[3] == 0
    assert np.allclose(overlay_pixel(page, *edge)[:3], FIRST, atol=4) and overlay_pixel(page, *edge)[3] == 255
    page.get_by_label("Masks").uncheck()
    assert overlay_pixel(page, *inside)[3] == 0
    page.get_by_label("Boxes").uncheck()
    assert overlay_pixel(page, *edge)[3] == 0


def test_the_legend_shows_and_hides_classes(open_page: OpenPage) -> None:
    page, fake = open_page("detection")
    choose(page, image_file(size=(400, 300)))
    key = page.get_by_role("list", name="Classes to show").get_by_role("button", name="person")
    key.click()
    expect(key).to_have_attribute("aria-pressed", "false")
    assert overlay_pixel(page, 0.3, 0.5)[3] == 0
    expect(page.get_by_role("list", name="Objects").get_by_role("listitem")).to_have_text(["cup71.0 %"])
    key.click()
    assert overlay_pixel(page, 0.3, 0.5)[3] > 0
    assert len(fake.asked) == 1


def test_an_object_of_the_list_is_highlighted(open_page: OpenPage) -> None:
    page, _ = open_page("detection")
    choose(page, image_file(size=(400, 300)))
    cup = page.get_by_role("list", name="Objects").get_by_role("button", name="cup")
    full = overlay_pixel(page, 0.3, 0.5)[3]
    for highlight, end in ((cup.hover, page.locator("#name").hover), (cup.focus, cup.blur)):
        highlight()
        assert overlay_pixel(page, 0.3, 0.5)[3] < full / 2
        end()
        assert overlay_pixel(page, 0.3, 0.5)[3] == full
    page.locator("#overlay").hover(position={"x": 500, "y": 320})
    expect(cup).to_have_class("object lit")


def test_run_lengths_are_those_of_coco(open_page: OpenPage) -> None:
    page, _ = open_page("detection")
    generator = np.random.default_rng(0)
    masks = [
        ellipse(1000, 700, (100, 50, 900, 690)),
        generator.random((37, 53)) < 0.5,
        np.zeros((5, 4), bool),
        np.ones((5, 4), bool),
    ]
    for mask in masks:
        height, width = mask.shape
        found = module(page, "masks", "maskWithin", run_lengths(mask), [0, 0, width, height], 1000)
        values = np.array(found["values"]).reshape(mask.shape)
        assert (values == mask).all()
    part = module(page, "masks", "maskWithin", run_lengths(masks[0]), [300, 200, 100, 50], 60)
    assert [part[key] for key in ("left", "top", "width", "height", "step")] == [299, 199, 51, 26, 2]
    values = np.array(part["values"]).reshape(26, 51)
    assert (values == masks[0][199:251:2, 299:401:2]).all()


@pytest.mark.parametrize("deep", [False, True])
def test_label_maps_are_decoded_exactly(open_page: OpenPage, deep: bool) -> None:
    page, _ = open_page("segmentation")
    y, x = np.mgrid[0:61, 0:47]
    smooth = (y * 3 + x * x // 7) % 251  # rows of it have filters of all kinds
    values = smooth * (257 if deep else 1) + (np.arange(47) % 2 if deep else 0)
    found = module(page, "png", "decodeGrey", png(values))
    assert (found["width"], found["height"]) == (47, 61)
    assert found["values"] == values.ravel().tolist()


def test_a_label_map_is_shown_with_its_classes(open_page: OpenPage) -> None:
    page, fake = open_page("segmentation")
    choose(page, image_file(size=(200, 100)))
    keys = page.get_by_role("list", name="Classes to show").get_by_role("button")
    expect(keys).to_have_text(["background25.0 %", "person25.0 %", "flag25.0 %", "shuttle25.0 %"])
    pixel = overlay_pixel(page, 0.3, 0.5)
    assert np.allclose(pixel[:3], SECOND, atol=2) and pixel[3] == 153
    set_slider(page.get_by_label("Opacity"), 1)
    assert overlay_pixel(page, 0.3, 0.5) == (*SECOND, 255)
    keys.nth(1).click()
    page.locator("#name").hover()
    expect(keys.nth(1)).to_have_attribute("aria-pressed", "false")
    assert overlay_pixel(page, 0.3, 0.5)[3] == 0
    assert overlay_pixel(page, 0.1, 0.5)[3] == 255
    assert len(fake.asked) == 1


def test_the_class_under_the_pointer_and_the_crosshair_is_shown(open_page: OpenPage) -> None:
    page, _ = open_page("segmentation")
    choose(page, image_file(size=(200, 100)))
    overlay = page.get_by_role("application", name="Label map")
    box = overlay.bounding_box()
    assert box is not None
    overlay.hover(position={"x": 0.6 * box["width"], "y": 0.5 * box["height"]})
    expect(page.locator("#readout")).to_have_text("flag at 120, 50")
    overlay.focus()
    page.keyboard.press("ArrowRight")  # it starts in the middle
    expect(page.locator("#live")).to_have_text("flag")
    for _ in range(8):
        page.keyboard.press("ArrowLeft")
    expect(page.locator("#live")).to_contain_text("person")
    expect(page.locator("#readout")).to_have_text("person at 60, 50")
    assert overlay_pixel(page, 60.5 / 200, 0.505)[:3] == (255, 255, 255)
    page.keyboard.press("Shift+ArrowDown")
    expect(page.locator("#readout")).to_have_text("person at 60, 51")


def test_the_cameras_orientation_is_followed(open_page: OpenPage) -> None:
    page, _ = open_page("detection")
    turned = Image.Exif()
    turned[0x0112] = 6
    choose(page, image_file("a.jpg", (400, 200), exif=turned))
    settle(page)
    box = page.locator("#frame").bounding_box()
    assert box is not None
    assert box["width"] / box["height"] == pytest.approx(0.5, abs=0.01)
    assert overlay_pixel(page, 0.3, 0.5)[3] > 0


def test_an_image_that_the_browser_cannot_show_has_results(open_page: OpenPage) -> None:
    page, _ = open_page("detection")
    choose(page, image_file("scan.tif", (300, 100)))
    expect(page.get_by_text("This browser cannot show this image (image/tiff).")).to_be_visible()
    expect(page.get_by_role("list", name="Objects").get_by_role("listitem")).to_have_count(2)
    settle(page)
    box = page.locator("#frame").bounding_box()
    assert box is not None
    assert box["width"] / box["height"] == pytest.approx(3, abs=0.02)


def test_results_follow_the_image_that_is_shown(open_page: OpenPage) -> None:
    page, fake = open_page("segmentation")
    labels: dict[str, Any] = {"labels": np.zeros((1, 1), int)}
    choose(page, image_file("a.png"))
    fake.reset("segmentation", **labels)
    choose(page, image_file("b.png"))
    expect(page.locator(".key")).to_have_text(["background100 %"])
    page.get_by_role("button", name="a.png, done").click()
    expect(page.locator(".key")).to_have_count(4)
    assert np.allclose(overlay_pixel(page, 0.3, 0.5)[:3], SECOND, atol=2)

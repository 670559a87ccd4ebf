"""The page, opened and used in a browser."""

import shutil

import pytest
import torch

import models
from models import data
from models.look.page import write_page
from models.look.recorded import recorder
from models.look.recorded.log import Log, relative

# Letters that would end a script, an attribute or a table.
NAMES = ["</script><u>boot", "a \"shirt\" & 'hat'", "été 食", *"3456789"]
COUNT = 80


@pytest.fixture(scope="module")
def log():
    """The log of a small network that was never trained; its gates differ between images."""
    torch.manual_seed(0)
    options = {"stages": ((4,), (4,)), "dense": (4, 4), "num_classes": 10, "gate_init": "he"}
    model = models.create("basecnn_2_cc", **options).eval()
    x, y = torch.randint(256, (COUNT, 3, 32, 32), dtype=torch.uint8), torch.arange(COUNT) % 10
    images = data.Images(x, y, x, y, tuple(NAMES), (0.5,) * 3, (0.3,) * 3, False)
    about = {"network": "basecnn_2_cc", "data": "noise", "checkpoint": "", "classes": NAMES,
             "routers": recorder.about_routers(model)}  # fmt: skip
    found = Log(about)
    recorder.record_route(found, model, images, "cpu", 32)
    recorder.record_pictures(found, images, [], 32)
    recorder.record_switches(found, model, images, "cpu", 32)
    return found


@pytest.fixture(scope="module")
def browser():
    """A browser without a window."""
    if not shutil.which("chromedriver"):
        pytest.skip("Chromium and its driver are not installed: make browser")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    for word in ("headless=new", "no-sandbox", "disable-dev-shm-usage"):
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options, service)
    yield driver
    driver.quit()


@pytest.fixture
def page(browser, log, tmp_path):
    """The page in the browser; what it had to complain of is an error."""
    write_page(log, tmp_path / "page.html")
    browser.set_window_size(1280, 1000)
    browser.get(f"file://{tmp_path / 'page.html'}")
    yield browser
    assert browser.get_log("browser") == []


def all_of(page, selector):
    return page.find_elements("css selector", selector)


def one(page, selector):
    (found,) = all_of(page, selector)
    return found


def said(page):
    return one(page, "#said").text


def gates(page, router):
    """The gates that the diagram shows at a router, by (input, output)."""
    edges = all_of(page, f"#route line[data-gate^='{router}-']")
    places = [tuple(map(int, e.get_attribute("data-gate").split("-")))[1:] for e in edges]
    return dict(zip(places, (float(e.get_attribute("data-value")) for e in edges)))


def chosen(page):
    return int(one(page, ".picture[aria-pressed=true]").get_attribute("data-at"))


def names_best(text, values):
    """Whether a text ends in the likeliest class and its probability; the page has four digits."""
    head, _, number = text.removesuffix(" %.").rpartition(", ")
    label = int(values.argmax())
    return head.endswith(NAMES[label]) and abs(float(number) - 100 * values[label]) < 0.06


def test_an_image_is_chosen_and_its_route_is_that_of_the_log(page, log):
    indices, learned = log.of("switches")["indices"], log.of("switches")["probabilities"][0]
    pictures = all_of(page, "#images button")
    assert page.title == "Routes of basecnn_2_cc on noise"
    assert len(pictures) == len(indices) == 60 and chosen(page) == 0
    pictures[41].click()
    assert chosen(page) == 41
    for router in range(4):
        held = log.each_router("gates")[router][indices[41]]
        shown = gates(page, router)
        assert len(shown) == held.size
        for place, value in shown.items():
            assert value == pytest.approx(held[place], abs=1e-4)
    label = NAMES[log.of("route")["labels"][indices[41]]]
    assert said(page).startswith(f"{label}: seen as ") and names_best(said(page), learned[41])
    assert one(page, "#large").get_attribute("aria-label") == label


def test_every_switch_shows_what_the_network_then_does(page, log):
    switches = log.of("switches")
    radios = all_of(page, "#switches input")
    assert len(radios) + 1 == len(switches["switched"])
    for number, (router, path, to) in enumerate(switches["switched"].tolist()[1:], 1):
        radios[number - 1].click()
        now, before = switches["probabilities"][number, 0], switches["probabilities"][0, 0]
        first, _, second = said(page).partition(" Switched: ")
        assert names_best(first, before) and names_best(second, now)
        assert second.startswith("still ") == (now.argmax() == before.argmax())
        for at in range(4):
            for place, value in gates(page, at).items():
                held = switches[f"gates/{at}"][number, 0][place]
                assert value == pytest.approx(held, abs=1e-4), (number, at, place)
        means = log.each_router("gates")[router].mean(0)[path]
        for output in range(2):
            wanted = means[output] if to < 0 else float(output == to)
            assert gates(page, router)[path, output] == pytest.approx(wanted, abs=1e-4)
    one(page, "input[name=switch][value='0']").click()
    assert "Switched" not in said(page)


def test_boxes_are_shares_of_the_activation(page, log):
    index = log.of("switches")["indices"][0]
    for at in range(4):
        for side, means in (("in", log.each_router("inputs")[at]), ("out", log.outputs()[at])):
            for path, share in enumerate(relative(means[index])):
                box = one(page, f"#route rect[data-box='{at}-{side}-{path}']")
                assert float(box.get_attribute("data-share")) == pytest.approx(share, abs=2e-3)


def test_classes_are_chosen_and_any_name_is_shown(page):
    from selenium.webdriver.support.ui import Select

    menu = Select(one(page, "#class"))
    assert [option.text for option in menu.options] == ["all", *NAMES]
    menu.select_by_visible_text(NAMES[0])
    pictures = all_of(page, "#images button")
    assert len(pictures) == 6
    assert all(p.get_attribute("aria-label").startswith(NAMES[0]) for p in pictures)
    menu.select_by_visible_text(NAMES[2])
    assert said(page).startswith(f"{NAMES[2]}: seen as ")
    assert all_of(page, "u") == []  # a name is text, and never part of the page


def test_the_keyboard_does_all(page):
    from selenium.webdriver.common.keys import Keys

    assert len(all_of(page, "#images button[tabindex='0']")) == 1
    first = all_of(page, "#images button")[0]
    first.send_keys(Keys.ARROW_RIGHT)
    page.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    assert chosen(page) == 2
    page.switch_to.active_element.send_keys(Keys.ARROW_LEFT)
    assert chosen(page) == 1
    one(page, "input[name=switch][value='0']").send_keys(Keys.ARROW_RIGHT)
    assert "Switched" in said(page)
    widths = [line.get_attribute("stroke-width") for line in all_of(page, "#route line[data-gate]")]
    one(page, "input[name=scale][value=gate]").send_keys(Keys.ARROW_RIGHT)
    after = [line.get_attribute("stroke-width") for line in all_of(page, "#route line[data-gate]")]
    assert widths != after


def test_nothing_is_wider_than_a_phone(page):
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True},
    )
    try:
        width, inner = page.execute_script(
            "return [document.documentElement.scrollWidth, window.innerWidth]"
        )
        assert width <= inner == 390
        small = [
            button.size["width"] for button in all_of(page, "#images button")
            if button.size["width"] < 40
        ]  # fmt: skip
        assert small == []  # a finger finds them
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

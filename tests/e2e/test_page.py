"""The pages of `bertline serve` in a real browser: what they show, where they mark it, and who can use them."""

import contextlib
import io
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, Route, expect

from bertline.benchmarks.serve.serving import serving

TASKS = (
    "text-classification", "token-classification", "question-answering", "multi_label_classification", "regression",
)  # fmt: skip
REVIEW = "number 4: Berlin is a city"
EMOJI = "😀👩‍👩‍👧 number 3: Berlin it is"
KEY = "sesame"
CARD = "aside h2"
LINES = "els => els.map(el => el.textContent)"
REFUSING = "void (navigator.clipboard.writeText = () => Promise.reject())"
PARTS = "p => [...p.childNodes].map(n => [n.nodeName, (n.querySelector?.('.words') ?? n).textContent])"


@pytest.fixture(scope="module")
def site(tiny_bundle: Callable[[str, str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with a bundle of each task, called as the task."""
    folder = tmp_path_factory.mktemp("site")
    for task in TASKS:
        (folder / task).symlink_to(tiny_bundle("bert", task))
    with serving(*(folder / task for task in TASKS)) as server:
        yield server.url


@pytest.fixture(scope="module")
def locked(tiny_bundle: Callable[[str, str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that asks for a key, and reads short texts alone."""
    keys = tmp_path_factory.mktemp("locked") / "keys"
    keys.write_text(KEY)
    given = ("--api-keys", keys, "--limit", "characters=100")
    with serving(tiny_bundle("bert", "text-classification"), *given) as server:
        yield server.url


def choose(page: Page, site: str, task: str) -> None:
    page.goto(site)
    page.get_by_label("Bundle", exact=True).select_option(task)


def answer(page: Page, *texts: str) -> Locator:
    """Fill in the fields and press the button; the answer that is shown."""
    for field, text in zip(page.locator("textarea:visible").all(), texts, strict=True):
        field.fill(text)
    page.get_by_role("button", name="Answer").click()
    return shown(page)


def shown(page: Page) -> Locator:
    found = page.locator("#answer:not([aria-busy])")
    found.wait_for()
    return found


def unlock(page: Page, key: str) -> None:
    page.get_by_label("API key").fill(key)
    page.keyboard.press("Enter")


def told(page: Page, site: str, task: str, inputs: Any, **parameters: Any) -> Any:
    """What the API answers."""
    body = {"inputs": inputs, "parameters": parameters}
    return page.request.post(f"{site}/models/{task}", data=body).json()


def percent(score: float) -> str:
    return f"{100 * score:.1f} %"


def marked(passage: Locator) -> tuple[str, list[tuple[int, int]]]:
    """The whole text of a passage, and where it is marked, in code points."""
    text, places = "", []
    for name, words in passage.evaluate(PARTS):
        if name == "MARK":
            places.append((len(text), len(text) + len(words)))
        text += words
    return text, places


def test_labels(page: Page, site: str) -> None:
    choose(page, site, "text-classification")
    scores = answer(page, REVIEW).locator(".scores")
    [ranked] = told(page, site, "text-classification", REVIEW)
    assert scores.locator(".label").evaluate_all(LINES) == [one["label"] for one in ranked]
    assert scores.locator(".number").evaluate_all(LINES) == [percent(one["score"]) for one in ranked]
    widths = [box["width"] for fill in scores.locator(".fill").all() if (box := fill.bounding_box())]
    assert widths == sorted(widths, reverse=True)
    assert scores.locator(".given .label").evaluate_all(LINES) == [ranked[0]["label"]]
    expect(page.get_by_role("status")).to_contain_text(f"{ranked[0]['label']}, {percent(ranked[0]['score'])}. Answered")


@pytest.mark.parametrize("count", [0, 2])
def test_of_several_labels_those_are_marked_that_reach_their_thresholds(page: Page, site: str, count: int) -> None:
    task = "multi_label_classification"
    [ranked] = told(page, site, task, REVIEW)
    given = ranked[1 : 1 + count]
    models = page.request.get(f"{site}/models").json()
    assert all(len(one["thresholds"]) == (len(one["labels"]) if one["name"] == task else 0) for one in models)
    thresholds = {one["label"]: one["score"] / 2 if one in given else 1.0 for one in ranked}
    page.route("**/models", lambda route: route.fulfill(json=[one | {"thresholds": thresholds} for one in models]))
    choose(page, site, task)
    shown = answer(page, REVIEW)
    assert shown.locator(".given .label").evaluate_all(LINES) == [one["label"] for one in given]
    expect(shown.locator(".large")).to_have_text(
        ", ".join(one["label"] for one in given) or "No label reaches its threshold"
    )
    said = "; ".join(f"{one['label']}, {percent(one['score'])}" for one in given) or "No label reaches its threshold"
    expect(page.get_by_role("status")).to_contain_text(f"{said}. Answered")


def test_a_number(page: Page, site: str) -> None:
    choose(page, site, "regression")
    [[one]] = told(page, site, "regression", REVIEW)
    expect(answer(page, REVIEW).locator(".large")).to_have_text(f"{one['score']:.3f}")


def test_entities_are_marked_where_they_are(page: Page, site: str) -> None:
    choose(page, site, "token-classification")
    shown = answer(page, EMOJI)
    found = told(page, site, "token-classification", EMOJI)
    assert found, "a text without entities shows nothing"
    assert marked(shown.locator(".passage")) == (EMOJI, [(one["start"], one["end"]) for one in found])
    assert shown.locator("mark small").evaluate_all(LINES) == [one["entity_group"] for one in found]
    rows = [[one["word"], one["entity_group"], percent(one["score"]), f"{one['start']}–{one['end']}"] for one in found]
    assert [row.locator("td").evaluate_all(LINES) for row in shown.locator("tbody tr").all()] == rows


def test_the_answer_is_marked_in_its_context(page: Page, site: str) -> None:
    choose(page, site, "question-answering")
    shown = answer(page, "which city?", EMOJI)
    inputs = {"question": "which city?", "context": EMOJI}
    best, *others = told(page, site, "question-answering", inputs, top_k=3)
    assert best["answer"]
    expect(shown.locator(".large")).to_have_text(best["answer"])
    assert marked(shown.locator(".passage")) == (EMOJI, [(best["start"], best["end"])])
    assert shown.locator("li .label").evaluate_all(LINES) == [one["answer"] for one in others]


def test_markup_in_a_text_stays_text(page: Page, site: str) -> None:
    text = "<img src=//elsewhere.example/x> number 3: <b>Berlin</b> it is"
    choose(page, site, "token-classification")
    assert marked(answer(page, text).locator(".passage"))[0] == text


def test_what_answered_and_what_it_measured(page: Page, site: str) -> None:
    page.goto(site)
    model = page.request.get(f"{site}/models").json()[0]
    card = page.get_by_role("complementary")
    expect(card.get_by_role("heading")).to_have_text(model["name"])
    measured = model["measured"]
    figures = card.locator(".figures dd").evaluate_all(LINES)
    assert figures == [f"{measured['value']:.3f}", f"{measured['baseline']:.3f}"]
    for words in (f"{measured['metric']} on {measured['examples']}", measured["candidate"], measured["cpu"]):
        expect(card).to_contain_text(words)
    for ms in measured["p50_ms"].values():
        expect(card).to_contain_text(f"{ms:.1f} ms")
    shown = answer(page, REVIEW)
    expect(shown).to_contain_text(f"Answered by {model['name']}, version {model['version']}")
    assert shown.locator(".timing dt").evaluate_all(LINES) == ["round trip", "queue", "tokenize", "run"]


def test_a_text_that_is_too_long_is_said_to_be_cut(page: Page, site: str) -> None:
    page.goto(site)
    expect(page.locator("aside")).to_contain_text("Reads48 tokens")
    expect(answer(page, "number 4 " * 60).locator(".note")).to_contain_text("longer than the 48 tokens")
    expect(page.get_by_role("status")).to_contain_text("longer than the 48 tokens")


def test_of_a_question_and_its_context_it_is_the_question_that_is_cut(page: Page, site: str) -> None:
    choose(page, site, "question-answering")
    expect(page.locator("aside")).to_contain_text("Readswindows of 48 tokens")
    for question, notes in (("which city?", 0), ("which city? " * 60, 1)):
        shown = answer(page, question, "number 3: Berlin it is " * 60)
        expect(shown.locator(".note")).to_have_count(notes)
    expect(shown.locator(".note")).to_contain_text("The question is longer than what the model reads")


def test_the_keyboard_alone(page: Page, site: str) -> None:
    page.goto(site)
    page.locator(CARD).wait_for()
    seen = []
    while not page.evaluate("document.activeElement.id === 'choice'"):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("getComputedStyle(document.activeElement).outlineStyle"))
        assert len(seen) < 9
    assert set(seen) == {"solid"}
    for _ in range(9):
        if page.evaluate("document.activeElement.value") == "question-answering":
            break
        page.keyboard.press("ArrowDown")
    for text in ("which city?", "number 3: Berlin it is"):
        page.keyboard.press("Tab")
        page.keyboard.type(text)
    page.keyboard.press("Control+Enter")
    expect(shown(page).locator(".large")).not_to_be_empty()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "ask"


def test_the_example_is_asked_where_nothing_is_typed(page: Page, site: str) -> None:
    page.goto(site)
    page.locator(CARD).wait_for()
    page.locator("#ask").click()
    shown(page)
    assert page.locator("#first").input_value() == page.locator("#first").get_attribute("placeholder")


def test_a_text_can_be_asked_before_the_bundles_are_known(page: Page, site: str) -> None:
    held: list[Route] = []
    page.route("**/models", lambda route: held.append(route))
    page.goto(site)
    page.get_by_label("Text", exact=True).fill(REVIEW)
    page.keyboard.press("Control+Enter")
    assert page.locator(CARD).count() == 0
    held[0].continue_()
    expect(shown(page).locator(".scores li")).not_to_have_count(0)


def test_a_text_that_is_asked_once_the_server_is_there_is_answered(page: Page, site: str, faults: list[str]) -> None:
    page.route("**/models", lambda route: route.abort(), times=1)
    page.goto(site)
    expect(page.get_by_role("alert")).to_have_text("The server does not answer. Is it still running?")
    page.get_by_label("Text", exact=True).fill(REVIEW)
    page.get_by_role("button", name="Answer").click()
    expect(shown(page).locator(".scores li")).not_to_have_count(0)
    expect(page.locator("#refusal")).to_be_hidden()
    faults.clear()


def test_bundles_that_were_swapped_are_told_anew(page: Page, site: str) -> None:
    models = page.request.get(f"{site}/models").json()
    before = [one | {"version": "of before"} for one in models]
    page.route("**/models", lambda route: route.fulfill(json=before), times=1)
    page.goto(site)
    expect(page.locator("aside")).to_contain_text("of before")
    answer(page, REVIEW)
    expect(page.locator("aside")).to_contain_text(models[0]["version"])


def test_an_answer_is_decided_as_the_bundle_that_gave_it_decides(page: Page, site: str) -> None:
    """Thresholds may be others since a reload."""
    task = "multi_label_classification"
    models = page.request.get(f"{site}/models").json()
    (now,) = [one for one in models if one["name"] == task]
    before = now | {"version": "of before", "thresholds": dict.fromkeys(now["labels"], 2)}
    page.route("**/models", lambda route: route.fulfill(json=[before]), times=1)
    page.goto(site)
    expect(page.locator("aside")).to_contain_text("of before")
    with page.expect_response(f"**/models/{task}") as asked:
        answer(page, REVIEW)
    told = {one["label"]: one["score"] for one in asked.value.json()[0]}
    given = [label for label, score in told.items() if score >= now["thresholds"][label]]
    assert given, "else this test would not see a difference"
    assert page.locator(".given .label").all_text_contents() == given


def test_a_request_ends_with_the_choice_of_another_bundle(page: Page, site: str) -> None:
    """Its answer would stand beside the card of that one."""
    choose(page, site, "text-classification")
    with page.expect_request("**/models/text-classification"):
        page.route("**/models/text-classification", lambda route: None)  # never answered
        page.get_by_label("Text", exact=True).fill(REVIEW)
        page.get_by_role("button", name="Answer").click()
    with page.expect_event("requestfailed"):
        page.get_by_label("Bundle", exact=True).select_option("regression")
    expect(page.locator("#answer")).not_to_have_attribute("aria-busy", "true")
    expect(page.locator("#answer")).to_be_hidden()
    expect(answer(page, REVIEW)).to_contain_text("Answered by regression")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_use_it_on_a_phone(browser: Browser, site: str, scheme: Any) -> None:
    page = browser.new_page(
        viewport={"width": 360, "height": 740}, color_scheme=scheme, reduced_motion="reduce", has_touch=True
    )
    for task in TASKS:
        choose(page, site, task)
        pair = ("which city?", EMOJI) if task == "question-answering" else (f"{EMOJI} {'x' * 90}",)
        answer(page, *pair)
        _hold(page)
    assert page.evaluate("getComputedStyle(document.querySelector('#answer')).transitionDuration") == "0s"
    page.goto(f"{site}/docs")
    page.locator("summary").first.wait_for()
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    _hold(page)
    page.close()


def _hold(page: Page) -> None:
    """To WCAG 2.2 AA, as far as axe sees it, contrast and all; and to the width of the screen."""
    page.mouse.move(0, 0)
    found = (
        Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa", "best-practice"]}).response
    )
    assert [(one["id"], one["nodes"][0]["html"]) for one in found["violations"]] == []
    assert "color-contrast" in [one["id"] for one in found["passes"]]
    assert "color-contrast" not in [one["id"] for one in found["incomplete"]]
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 360


def test_the_key_is_asked_for_and_kept_by_the_tab_alone(page: Page, locked: str, faults: list[str]) -> None:
    page.goto(locked)
    refusal = page.get_by_role("alert")
    for key in (None, "wrong", KEY):
        if key is not None:
            unlock(page, key)
        if key != KEY:
            expect(refusal).to_have_text("API key required: send the header Authorization: Bearer KEY")
    page.locator(CARD).wait_for()
    expect(refusal).to_be_hidden()
    answer(page, REVIEW)
    page.goto(f"{locked}/docs")
    page.locator(".operation").first.wait_for()
    assert page.evaluate("[localStorage.length, document.cookie, sessionStorage.length]") == [0, "", 1]
    page.get_by_role("button", name="Forget the key").click()
    expect(page.get_by_label("API key")).to_be_visible()
    assert page.evaluate("sessionStorage.length") == 0
    assert all("401 (Unauthorized)" in one for one in faults)
    faults.clear()


def test_a_refusal_is_the_servers_sentence(page: Page, locked: str, faults: list[str]) -> None:
    page.goto(locked)
    unlock(page, KEY)
    answer(page, REVIEW)
    page.get_by_label("Text", exact=True).fill("x" * 101)
    page.locator("#ask").click()
    expect(page.get_by_role("alert")).to_have_text("inputs: String should have at most 100 characters")
    expect(page.locator("#answer")).to_be_hidden()
    answer(page, REVIEW)
    expect(page.locator("#refusal")).to_be_hidden()
    faults.clear()


def test_what_is_copied_is_said(page: Page, site: str) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.clock.install(time=0)
    page.goto(f"{site}/docs")
    copy = page.get_by_role("button", name="Copy Shell of GET /v2", exact=True)
    copy.wait_for()
    page.clock.pause_at(1_000_000)
    for said, begin in (("Copied", "0"), ("Not copied", REFUSING)):
        page.evaluate(begin)
        copy.click()
        expect(page.get_by_role("status")).to_have_text(said)
        expect(copy).to_have_text(said)
        page.clock.run_for(2000)
        expect(page.get_by_role("status")).to_be_empty()
        expect(copy).to_have_text("Copy")
    assert page.evaluate("navigator.clipboard.readText()") == f"curl '{site}/v2'"


def test_an_operation_is_shown_with_the_inputs_of_its_own_bundle(
    page: Page, tiny_bundle: Callable[[str, str], Path], tmp_path: Path
) -> None:
    """Which may be called as another part of its path."""
    names = {"v2": "question-answering", "v1": "text-classification"}
    for name, task in names.items():
        (tmp_path / name).symlink_to(tiny_bundle("bert", task))
    with serving(*(tmp_path / name for name in names)) as server:
        page.goto(f"{server.url}/docs")
        operation = page.get_by_role("article", name="POST /v2/models/v1/infer", exact=True)
        expect(operation.locator("code").first).to_contain_text('"name":"text"')


def test_the_keyboard_goes_on_where_the_documentation_begins(page: Page, locked: str, faults: list[str]) -> None:
    page.goto(f"{locked}/docs")
    unlock(page, "wrong")
    expect(page.get_by_label("API key")).to_be_focused()
    unlock(page, KEY)
    expect(page.get_by_role("heading", level=1)).to_be_focused()
    faults.clear()


@pytest.mark.usefixtures("online")
@pytest.mark.parametrize("where", ["site", "locked"])
def test_the_lines_of_the_documentation_work(
    page: Page, where: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, faults: list[str]
) -> None:
    monkeypatch.setenv("BERTLINE_API_KEY", KEY)
    url = request.getfixturevalue(where)
    page.goto(f"{url}/docs")
    if where == "locked":
        unlock(page, KEY)
    page.locator(".operation").first.wait_for()
    lines = page.locator("pre code", has_text="curl ").evaluate_all(LINES)
    document = page.request.get(f"{url}/openapi.json", headers={"Authorization": f"Bearer {KEY}"}).json()
    assert len(lines) == sum(len(methods) for methods in document["paths"].values())
    for line in lines:
        done = subprocess.run(
            ["bash", "-c", f"{line} -sS --fail-with-body"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, line + done.stdout
    for line in page.locator("pre code", has_text="huggingface_hub").evaluate_all(LINES):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(line, {})
        assert "score=" in printed.getvalue()
    faults.clear()

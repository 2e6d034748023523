// The page at /: type a text, see its answer.

import { draw, parameters, truncated } from "./answers.js";
import { ask, byId, clearRefusal, element, refuse, unlockWith } from "./asking.js";
import { card, timing } from "./bundle.js";
import { body, examples } from "./examples.js";

const FIELDS = [byId("first"), byId("second")];
const NAMES = { text: "Text", text_pair: "Second text", question: "Question", context: "Context" };

let models = [];
let underWay = new AbortController();

/** The selected bundle. */
const chosen = () => models[byId("choice").selectedIndex];

async function begin() {
  try {
    models = (await ask("models")).content;
  } catch (error) {
    refuse(error);
    return;
  }
  clearRefusal();
  const before = byId("choice").value;
  byId("choice").replaceChildren(...models.map(({ name }) => element("option", {}, name)));
  if (models.some(({ name }) => name === before)) byId("choice").value = before;
  byId("choosing").hidden = models.length < 2;
  prepare();
}

/** Fit the form and the card to the selected bundle. */
function prepare() {
  const model = chosen();
  const example = examples(model);
  FIELDS.forEach((field, index) => {
    const name = model.inputs[index];
    field.parentElement.hidden = name === undefined;
    if (name === undefined) return;
    field.labels[0].textContent = NAMES[name];
    field.placeholder = example[name];
    field.rows = name === "question" ? 1 : 3;
  });
  byId("bundle").replaceChildren(...card(model));
}

/** The texts of the fields, by the names of the inputs; if all are empty, those of the example. */
function texts(model) {
  const fields = FIELDS.slice(0, model.inputs.length);
  if (fields.every((field) => field.value === "")) {
    for (const field of fields) field.value = field.placeholder;
  }
  return Object.fromEntries(model.inputs.map((name, index) => [name, fields[index].value]));
}

async function answer() {
  await begun;
  if (chosen() === undefined) await (begun = begin()); // the server may be up by now
  const model = chosen();
  if (model === undefined) return;
  underWay.abort();
  const { signal } = (underWay = new AbortController());
  const asked = texts(model);
  byId("answer").setAttribute("aria-busy", "true");
  try {
    const path = `models/${model.name}`;
    const told = await ask(path, { ...body(model, asked), parameters: parameters(model) }, signal);
    if (told.headers.get("X-Bundle-Version") !== model.version) await (begun = begin()); // the bundles were reloaded
    const now = models.find(({ name }) => name === model.name) ?? model;
    if (!signal.aborted) show(now, asked, told);
  } catch (error) {
    fail(error);
  }
}

/** The note about a text that was cut: if texts are read in windows, that is the question. */
function cutWords({ long, max_tokens }) {
  return long === "windows"
    ? "The question is longer than what the model reads beside a context; its end was left out."
    : `The text is longer than the ${max_tokens} tokens that the model reads; the rest was left out.`;
}

function show(model, asked, { content, headers, ms }) {
  clearRefusal();
  const { shown, said } = draw(model, asked, content);
  const from = element("p", { class: "hint" }, `Answered by ${model.name}, version ${headers.get("X-Bundle-Version")}`);
  const cut = cutWords(model);
  const parts = truncated(content) ? [element("p", { class: "note" }, cut), ...shown] : shown;
  byId("answer").replaceChildren(element("h2", {}, "Answer"), ...parts, timing(ms, headers.get("Server-Timing")), from);
  byId("answer").hidden = false;
  byId("answer").removeAttribute("aria-busy");
  byId("said").textContent = `${said}. Answered in ${Math.round(ms)} milliseconds.${truncated(content) ? ` ${cut}` : ""}`;
}

function fail(error) {
  if (error.name === "AbortError") return; // another text was submitted, or another bundle selected
  byId("answer").hidden = true;
  byId("answer").removeAttribute("aria-busy");
  byId("said").textContent = "";
  refuse(error);
}

byId("asking").addEventListener("submit", (event) => {
  event.preventDefault();
  answer();
});
byId("asking").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    answer();
  }
});
byId("choice").addEventListener("change", () => {
  underWay.abort(); // its answer would appear beside the card of another bundle
  byId("answer").hidden = true;
  byId("answer").removeAttribute("aria-busy");
  clearRefusal();
  prepare();
});
if (/Mac|iPhone|iPad/.test(navigator.platform)) byId("modifier").textContent = "⌘";
unlockWith(async () => {
  await (begun = begin());
  if (chosen()) byId("first").focus();
});
let begun = begin();

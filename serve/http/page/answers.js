// Draws the answer of each task.

import { element } from "./asking.js";

const LABELS = 10;
const ANSWERS = 3;

/** Parameters of a request: the best labels if there is one per text, and the best answers to a question. */
export function parameters(model) {
  if (model.task === "text-classification") return several(model) ? {} : { top_k: LABELS };
  return model.task === "question-answering" ? { top_k: ANSWERS } : {};
}

/** The elements that show an answer, and the words that a screen reader announces. */
export function draw(model, texts, answer) {
  if (model.task === "token-classification") return entities(model, texts.text, answer);
  if (model.task === "question-answering") return answers(texts.context, [answer].flat());
  return labels(model, answer[0]);
}

export const percent = (score) => `${(100 * score).toFixed(1)} %`;

/** Whether a text may have any number of labels. */
const several = (model) => model.problem_type === "multi_label_classification";

/** Whether any part of an answer says that the text was longer than what the model reads. */
export const truncated = (answer) => [answer].flat(2).some((part) => part.truncated);

/** Slices a text by positions in code points, as Python counts; JavaScript counts UTF-16 code units. */
function cutter(text) {
  const points = Array.from(text);
  return (start, end) => points.slice(start, end).join("");
}

function labels(model, ranked) {
  if (model.problem_type === "regression") {
    const value = ranked[0].score.toFixed(3);
    return { shown: [element("p", { class: "large" }, value)], said: value };
  }
  const given = several(model)
    ? ranked.filter(({ label, score }) => score >= model.thresholds[label])
    : ranked.slice(0, 1);
  const words = given.map(({ label }) => label).join(", ") || "No label reaches its threshold";
  const said = given.map(({ label, score }) => `${label}, ${percent(score)}`).join("; ") || words;
  const best = ranked.filter((one, index) => index < LABELS || given.includes(one));
  const shown = [element("ol", { class: "scores" }, ...best.map((one) => bar(one, given.includes(one))))];
  const rest = model.labels.length - best.length;
  if (rest > 0) shown.push(element("p", { class: "hint" }, `The best of ${model.labels.length} labels.`));
  if (several(model)) {
    shown.unshift(element("p", { class: "large" }, words));
    shown.push(element("p", { class: "hint" }, "Each label has a score and a threshold of its own."));
  }
  return { shown, said };
}

function bar({ label, score }, given = false) {
  const fill = element("span", { class: "fill" });
  fill.style.inlineSize = `${100 * score}%`;
  return element(
    "li",
    given ? { class: "given" } : {},
    element("span", { class: "label" }, label),
    element("span", { class: "number" }, percent(score)),
    element("span", { class: "bar", "aria-hidden": "true" }, fill),
  );
}

function entities(model, text, found) {
  const part = cutter(text);
  const tones = [...new Set(model.labels.map((label) => label.replace(/^[BI]-/, "")))];
  const marked = element("p", { class: "passage" });
  let at = 0;
  for (const one of found) {
    marked.append(part(at, one.start), mark(part(one.start, one.end), one.entity_group, tones));
    at = one.end;
  }
  marked.append(part(at));
  if (found.length === 0) {
    return { shown: [marked, element("p", { class: "hint" }, "No entities found.")], said: "No entities found" };
  }
  const said = found.map((one) => `${one.word}: ${one.entity_group}`).join("; ");
  return { shown: [marked, table(found)], said };
}

function mark(words, label, tones) {
  const made = element("mark", {}, element("span", { class: "words" }, words), " ", element("small", {}, label));
  made.style.setProperty("--hue", Math.round(210 + 137.5 * tones.indexOf(label)) % 360);
  return made;
}

function table(found) {
  const head = ["Entity", "Label", "Score", "Characters"].map((name) => element("th", { scope: "col" }, name));
  const rows = found.map((one) =>
    element(
      "tr",
      {},
      element("td", {}, one.word),
      element("td", {}, one.entity_group),
      element("td", { class: "number" }, percent(one.score)),
      element("td", { class: "number" }, `${one.start}–${one.end}`),
    ),
  );
  return element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows));
}

function answers(context, ranked) {
  const part = cutter(context);
  const [best, ...others] = ranked;
  const passage = element("p", { class: "passage" }, part(0, best.start));
  if (best.answer) passage.append(element("mark", { class: "found" }, part(best.start, best.end)));
  passage.append(part(best.end));
  const words = best.answer || "The context does not answer this.";
  const shown = [element("p", { class: "large" }, words), element("p", { class: "hint" }, percent(best.score)), passage];
  if (others.length > 0) {
    const rest = others.map((one) => bar({ label: one.answer || "(no answer)", score: one.score }));
    shown.push(element("h3", {}, "Next best"), element("ol", { class: "scores" }, ...rest));
  }
  return { shown, said: `${words} ${percent(best.score)}` };
}

// The card of a bundle, with its measurements, and how long the last answer took.

import { element } from "./asking.js";

const STAGES = ["queue", "tokenize", "run"];
const count = new Intl.NumberFormat("en");

/** The card of a bundle, from its entry in GET /models. */
export function card(model) {
  const { measured } = model;
  const parts = [
    element("h2", {}, model.name),
    element("p", { class: "hint" }, `${model.task.replaceAll("-", " ")}, ${model.runtime}`),
  ];
  if (model.notice) parts.push(element("p", { class: "note" }, model.notice));
  parts.push(
    element("dl", { class: "figures" }, figure("bundle", measured.value), figure("PyTorch", measured.baseline)),
    element("p", { class: "hint" }, `${measured.metric} on ${count.format(measured.examples)} examples`),
    facts(model),
  );
  return parts;
}

function figure(name, value) {
  return element("div", {}, element("dt", {}, name), element("dd", {}, value.toFixed(3)));
}

function facts(model) {
  const { measured } = model;
  const medians = Object.entries(measured.p50_ms).map(([grid, ms]) => `${grid.replace("x", " × ")}: ${ms.toFixed(1)} ms`);
  const rows = [
    ["Candidate", measured.candidate],
    ...(medians.length > 0 ? [["Median, texts × tokens", ...medians]] : []),
    ["Measured on", `${measured.cpu}, ${measured.cpu_class}`],
    ["Reads", `${model.long === "windows" ? "windows of " : ""}${count.format(model.max_tokens)} tokens`],
    ["Made", model.created.slice(0, 10)],
    ["Version", model.version],
  ];
  return element("dl", { class: "facts" }, ...rows.flatMap(fact));
}

function fact([name, ...values]) {
  return [element("dt", {}, name), ...values.map((value) => element("dd", {}, value))];
}

/** Milliseconds of each stage, from a Server-Timing header. */
function stages(header) {
  const found = Object.fromEntries(
    (header ?? "").split(",").map((one) => [one.split(";")[0].trim(), Number(/dur=([\d.]+)/.exec(one)?.[1])]),
  );
  return STAGES.map((name) => [name, found[name]]).filter(([, ms]) => Number.isFinite(ms));
}

/** The round trip of a request, and the stages on the server. */
export function timing(ms, header) {
  const parts = stages(header);
  const strip = element("div", { class: "strip", "aria-hidden": "true" });
  for (const [name, part] of parts) {
    const segment = element("span", { class: name });
    segment.style.inlineSize = `${Math.min(100, (100 * part) / ms)}%`;
    strip.append(segment);
  }
  const told = [["round trip", ms], ...parts].map(([name, part]) =>
    element("div", { class: name.replace(" ", "-") }, element("dt", {}, name), element("dd", {}, `${part.toFixed(1)} ms`)),
  );
  return element("div", { class: "timing" }, strip, element("dl", {}, ...told));
}

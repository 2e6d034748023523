// The page at /docs: each operation of openapi.json, with samples that work as they are.

import { ask, byId, clearRefusal, element, refuse, unlockWith } from "./asking.js";
import { curl, python } from "./samples.js";

const SHOWN_MS = 2000;

async function begin() {
  try {
    const [{ content: document_ }, { content: models }] = await Promise.all([ask("openapi.json"), ask("models")]);
    clearRefusal();
    byId("export").hidden = document_.components.securitySchemes === undefined;
    byId("operations").replaceChildren(...groups(document_).map(([tag, found]) => group(tag, found, models, document_)));
  } catch (error) {
    refuse(error);
  }
}

/** [tag, operations] in the document's order. */
function groups(document_) {
  const found = new Map();
  for (const [path, methods] of Object.entries(document_.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const [tag] = operation.tags;
      found.set(tag, [...(found.get(tag) ?? []), { path, method: method.toUpperCase(), ...operation }]);
    }
  }
  return [...found];
}

function group(tag, operations, models, document_) {
  const drawn = operations.map((operation) => article(operation, models, document_));
  return element("section", { class: "group", "aria-label": tag }, element("h2", {}, tag), ...drawn);
}

function article(operation, models, document_) {
  const asked = /\/models\/([^/]+)/.exec(operation.path)?.[1];
  const model = models.find(({ name }) => name === asked) ?? models[0];
  const code = python(operation, model);
  const name = `${operation.method} ${operation.path}`;
  const parts = [
    element("h3", {}, element("span", { class: "method" }, operation.method), " ", operation.path),
    element("p", {}, operation.summary),
    sample("Shell", name, curl(operation, model)),
    ...(code ? [sample("Python", name, code)] : []),
    ...request(operation, document_),
    answers(operation, document_),
  ];
  return element("article", { class: "operation", "aria-label": name }, ...parts);
}

function sample(language, operation, code) {
  const head = element("div", {}, language);
  if (navigator.clipboard) {
    const label = `Copy ${language} of ${operation}`;
    const button = element("button", { class: "plain", type: "button", "aria-label": label }, "Copy");
    button.addEventListener("click", () => copy(button, code));
    head.append(button);
  }
  return element("div", { class: "sample" }, head, element("pre", {}, element("code", {}, code)));
}

async function copy(button, code) {
  const said = await navigator.clipboard.writeText(code).then(() => "Copied", () => "Not copied");
  button.textContent = byId("said").textContent = said;
  setTimeout(() => {
    button.textContent = "Copy";
    byId("said").textContent = ""; // so that screen readers announce a second copy as well
  }, SHOWN_MS);
}

function request(operation, document_) {
  const schema = operation.requestBody?.content["application/json"].schema;
  return schema ? [folded("Request schema", pretty(schema, document_))] : [];
}

function answers(operation, document_) {
  const parts = Object.entries(operation.responses).flatMap(([status, { description, content }]) => [
    element("p", {}, element("strong", {}, status), ` ${description}`),
    ...Object.entries(content).map(([kind, { schema }]) => pretty(schema, document_, kind)),
  ]);
  return folded("Responses", ...parts);
}

function folded(title, ...parts) {
  return element("details", {}, element("summary", {}, title), ...parts);
}

/** A schema as JSON, with its reference into the document resolved. */
function pretty(schema, document_, kind = "application/json") {
  const own = schema.$ref ? document_.components.schemas[schema.$ref.split("/").at(-1)] : schema;
  const note = kind === "application/json" ? "" : `${kind}\n`;
  return element("pre", {}, element("code", {}, note + JSON.stringify(own, null, 2)));
}

unlockWith(async () => {
  await begin();
  if (byId("unlocking").hidden) byId("title").focus(); // the field that had the focus is gone
});
begin();

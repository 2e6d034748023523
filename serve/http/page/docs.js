// The page at /docs: each operation of openapi.json, with lines that work.

import { ask, byId, clearRefusal, element, refuse, unlockWith } from "./asking.js";
import { curl, python } from "./samples.js";

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
  const model = models.find(({ name }) => operation.path.split("/").includes(name)) ?? models[0];
  const code = python(operation, model);
  const parts = [
    element("h3", {}, element("span", { class: "method" }, operation.method), " ", operation.path),
    element("p", {}, operation.summary),
    sample("Shell", curl(operation, model)),
    ...(code ? [sample("Python", code)] : []),
    ...request(operation, document_),
    answers(operation, document_),
  ];
  return element("article", { class: "operation", "aria-label": `${operation.method} ${operation.path}` }, ...parts);
}

function sample(language, code) {
  const head = element("div", {}, language);
  if (navigator.clipboard) {
    const button = element("button", { class: "plain", type: "button" }, "Copy");
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(code);
      button.textContent = "Copied";
    });
    head.append(button);
  }
  return element("div", { class: "sample" }, head, element("pre", {}, element("code", {}, code)));
}

function request(operation, document_) {
  const schema = operation.requestBody?.content["application/json"].schema;
  return schema ? [folded("Schema of the request", pretty(schema, document_))] : [];
}

function answers(operation, document_) {
  const parts = Object.entries(operation.responses).flatMap(([status, { description, content }]) => [
    element("p", {}, element("strong", {}, status), ` ${description}`),
    ...Object.entries(content).map(([kind, { schema }]) => pretty(schema, document_, kind)),
  ]);
  return folded("Answers", ...parts);
}

function folded(title, ...parts) {
  return element("details", {}, element("summary", {}, title), ...parts);
}

/** A schema as JSON, its references to the document's own resolved. */
function pretty(schema, document_, kind = "application/json") {
  const own = schema.$ref ? document_.components.schemas[schema.$ref.split("/").at(-1)] : schema;
  const note = kind === "application/json" ? "" : `${kind}\n`;
  return element("pre", {}, element("code", {}, note + JSON.stringify(own, null, 2)));
}

unlockWith(begin);
begin();

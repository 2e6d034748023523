// Shell and Python samples that query this server as they are, with the example of the bundle's task.

import { body, examples } from "./examples.js";

const KEY = "BERTLINE_API_KEY";
const V2 = /^\/v2\/models\/.*\/infer$/;

/** URL of the server, as this page reached it, without a slash at the end. */
const base = new URL(".", location.href).href.slice(0, -1);

/** A curl command. */
export function curl(operation, model) {
  const line = [`curl ${quoted(base + operation.path)}`];
  if (operation.security) line.push(`-H "Authorization: Bearer $${KEY}"`);
  if (operation.method === "POST") {
    const asked = V2.test(operation.path) ? tensors(model) : body(model, examples(model));
    line.push("-H 'Content-Type: application/json'", `-d ${quoted(JSON.stringify(asked))}`);
  }
  return line.join(" \\\n  ");
}

/** Python code for the client library of an operation's format; empty if there is none. */
export function python(operation, model) {
  if (V2.test(operation.path)) return triton(operation, model);
  return operation.method === "POST" ? hub(operation, model) : "";
}

/** A text quoted for a POSIX shell. */
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** A Python string literal: JSON's strings are valid Python. */
const literal = (text) => JSON.stringify(text);

function tensors(model) {
  const inputs = Object.entries(examples(model)).map(([name, text]) => ({
    name,
    shape: [1],
    datatype: "BYTES",
    data: [text],
  }));
  return { inputs };
}

function hub(operation, model) {
  const { text, question, context } = examples(model);
  if (model.inputs.includes("text_pair")) return ""; // huggingface_hub has no method that takes two texts
  const call = {
    "text-classification": `text_classification(${literal(text)})`,
    "token-classification": `token_classification(${literal(text)})`,
    "question-answering": `question_answering(\n    question=${literal(question)},\n    context=${literal(context)},\n)`,
  }[model.task];
  const token = operation.security ? `, token=os.environ["${KEY}"]` : "";
  return [
    "# pip install huggingface_hub",
    ...(operation.security ? ["import os", ""] : []),
    "from huggingface_hub import InferenceClient",
    "",
    `client = InferenceClient(model=${literal(base + operation.path)}${token})`,
    `print(client.${call})`,
  ].join("\n");
}

function triton(operation, model) {
  const { host, pathname, protocol } = new URL(`${base}/`);
  const place = literal((host + pathname).slice(0, -1));
  const outputs = model.problem_type === "single_label_classification" || model.task !== "text-classification";
  const pairs = Object.entries(examples(model)).map((pair) => pair.map(literal).join(": "));
  const headers = operation.security ? `, headers={"Authorization": "Bearer " + os.environ["${KEY}"]}` : "";
  return [
    "# pip install 'tritonclient[http]'",
    ...(operation.security ? ["import os", ""] : []),
    "import numpy as np",
    "from tritonclient.http import InferenceServerClient, InferInput",
    "",
    "tensors = []",
    `for name, text in {${pairs.join(", ")}}.items():`,
    '    tensor = InferInput(name, [1], "BYTES")',
    "    tensor.set_data_from_numpy(np.array([text], dtype=object))",
    "    tensors.append(tensor)",
    `client = InferenceServerClient(${place}${protocol === "https:" ? ", ssl=True" : ""})`,
    `answer = client.infer(${literal(model.name)}, tensors${headers})`,
    `print(${outputs ? 'answer.as_numpy("label"), ' : ""}answer.as_numpy("score"))`,
  ].join("\n");
}

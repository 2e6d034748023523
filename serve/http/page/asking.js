// Shared by both pages: elements made without markup, requests with the API key, and the form that asks for the key.

const KEY = "bertline-api-key";

/** Make an element; children that are strings become text, never markup. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export const byId = (id) => document.getElementById(id);

/** The server refused a request; the message is the server's own. */
export class Refused extends Error {
  constructor(status, sentence) {
    super(sentence);
    this.status = status;
  }
}

/**
 * GET a path, or POST a body to it as JSON.
 * Returns the parsed answer, the headers, and the milliseconds from the request to the end of the answer.
 */
export async function ask(path, body, signal) {
  const key = sessionStorage.getItem(KEY);
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const request = { headers, signal };
  if (body !== undefined) {
    headers["Content-Type"] = "application/json";
    Object.assign(request, { method: "POST", body: JSON.stringify(body) });
  }
  const began = performance.now();
  const response = await answered(path, request);
  const text = await response.text();
  const ms = performance.now() - began;
  if (response.status === 401 && sessionStorage.getItem(KEY) === key) sessionStorage.removeItem(KEY);
  if (!response.ok) throw new Refused(response.status, sentence(response.status, text));
  return { content: JSON.parse(text), headers: response.headers, ms };
}

async function answered(path, request) {
  try {
    return await fetch(path, request);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The server does not answer. Is it still running?");
  }
}

/** The server's error message; a proxy in between may answer without one. */
function sentence(status, text) {
  try {
    return JSON.parse(text).error ?? `The server answered ${status}.`;
  } catch {
    return `The server answered ${status}.`;
  }
}

/** Show why there is no answer, with a field for the API key if that is missing. */
export function refuse(error) {
  if (error.name === "AbortError") return;
  const refusal = byId("refusal");
  refusal.textContent = error.message;
  refusal.hidden = false;
  if (error.status === 401) {
    showKey();
    byId("unlocking").hidden = false;
    byId("key").focus();
  }
}

export function clearRefusal() {
  byId("refusal").hidden = true;
  byId("refusal").textContent = "";
}

/** Have the form for the key call `begin`, and the button that forgets the key reload the page. */
export function unlockWith(begin) {
  byId("unlocking").addEventListener("submit", (event) => {
    event.preventDefault();
    sessionStorage.setItem(KEY, byId("key").value);
    byId("key").value = "";
    byId("unlocking").hidden = true;
    showKey();
    clearRefusal();
    begin();
  });
  byId("forget").addEventListener("click", () => {
    sessionStorage.removeItem(KEY);
    location.reload();
  });
  showKey();
}

function showKey() {
  byId("forget").hidden = sessionStorage.getItem(KEY) === null;
}

// Example texts for each task, by the names of the inputs.

const EXAMPLES = {
  text: "The plot is thin, but the actors carry it: funny, warm, and over too soon.",
  text_pair: "The story is weak, yet the cast makes up for it.",
  question: "Where did they meet?",
  context: "Ada Lovelace met Charles Babbage at a party in London in June 1833, when she was seventeen.",
};
const ENTITIES = "Ada Lovelace met Charles Babbage in London, long before IBM built a computer in New York.";

/** The example for each input of a model from GET /models. */
export function examples(model) {
  const named = model.task === "token-classification" ? { text: ENTITIES } : EXAMPLES;
  return Object.fromEntries(model.inputs.map((name) => [name, named[name]]));
}

/** A request body in Hugging Face's format, from texts by the names of the inputs. */
export function body(model, texts) {
  const names = Object.keys(texts);
  return { inputs: names.length === 1 ? texts[names[0]] : texts };
}

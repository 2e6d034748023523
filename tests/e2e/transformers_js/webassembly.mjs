// Computes what a model gives for each input with the WebAssembly runtime of browsers: JSON on stdin, JSON on stdout.
import { readFile } from 'node:fs/promises';
import { json } from 'node:stream/consumers';
import { InferenceSession, Tensor } from 'onnxruntime-web';

const { model, inputs } = await json(process.stdin);
const session = await InferenceSession.create(await readFile(model), { executionProviders: ['wasm'] });
const row = (ids) => new Tensor('int64', BigInt64Array.from(ids, BigInt), [1, ids.length]);
const outputs = [];
for (const input of inputs) {
    const given = await session.run(Object.fromEntries(session.inputNames.map((name) => [name, row(input[name])])));
    outputs.push(session.outputNames.map((name) => Array.from(given[name].data)));
}
console.log(JSON.stringify(outputs));

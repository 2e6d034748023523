// Answers requests with a bundle from a local folder, as docs/bundle.md shows it: JSON on stdin, JSON on stdout.
import { basename, dirname } from 'node:path';
import { json } from 'node:stream/consumers';
import { env, pipeline } from '@huggingface/transformers';

const { bundle, task, requests } = await json(process.stdin);
env.allowRemoteModels = false;
env.localModelPath = dirname(bundle);
const answer = await pipeline(task, basename(bundle));
answer.tokenizer.return_token_type_ids = true;
const answers = [];
for (const request of requests) answers.push(await answer(...request)); // one by one: int8 depends on a batch's company
console.log(JSON.stringify(answers));

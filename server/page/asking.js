// Requests about several pictures and models: a few at a time, so that one visitor leaves room for others.

import { fieldsOf, formOf, sentFieldsOf } from './question.js';
import { Problem, ask } from './server.js';
import { lowestOf } from './thresholds.js';

const AT_ONCE = 2;

/** The key under which a picture keeps its reply to `question`, whatever the threshold. */
export const keyOf = (question) => JSON.stringify([question.task, ...fieldsOf({ ...question, box_threshold: '' })]);

/**
 * Ask each of `jobs` ({picture, question, model}), and call `onReply` with the job after each.
 *
 * A reply, or the problem in its place, is kept by its picture. `maxBytes` bounds a picture's size. Ends early by `signal`
 * (AbortError), and by a missing key (the Problem 401).
 */
export async function askAll(jobs, { maxBytes, signal, onReply }) {
  const left = [...jobs];
  const work = async () => {
    for (let job = left.shift(); job && !signal.aborted; job = left.shift()) {
      const reply = await replyTo(job, maxBytes, signal);
      if (signal.aborted) return;
      job.picture.replies.set(keyOf(job.question), reply);
      onReply(job, reply);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  signal.throwIfAborted();
}

async function replyTo({ picture, question, model }, maxBytes, signal) {
  const { task, texts } = question;
  const asked = { task, model: question.model, texts, low: task === 'detect' ? lowestOf(model) : 0, key: keyOf(question) };
  try {
    if (picture.blob.size > maxBytes) throw tooLarge(picture.blob.size, maxBytes);
    const body = await ask(task, formOf(picture.blob, picture.name, sentFieldsOf(question, model)), signal);
    return { ...asked, body, result: body.results?.[0] };
  } catch (problem) {
    if (!(problem instanceof Problem) || problem.status === 401) throw problem;
    return { ...asked, problem };
  }
}

function tooLarge(size, limit) {
  const detail = `It has ${size} bytes; the limit of a request is ${limit}.`;
  return new Problem({ title: 'The image is too large', detail });
}

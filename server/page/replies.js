// What pictures keep of earlier requests: the reply to a question, and what is downloaded of it.

import { keyOf } from './asking.js';

/** The reply of `picture` to `question`, or with `earlier` the latest answer of the same task and model; null without one. */
export function replyOf(picture, question, { earlier = false } = {}) {
  if (!picture || !question) return null;
  const { task, model } = question;
  const same = (reply) => reply.body && reply.task === task && reply.model === model;
  return picture.replies.get(keyOf(question)) ?? (earlier ? [...picture.replies.values()].findLast(same) : null) ?? null;
}

/** The answers in `replies` ([picture, reply]) as entries for formats.js; `answer` applies the threshold. */
export function entriesOf(replies, answer) {
  return replies.filter(([, reply]) => reply?.body).map(([{ name, blob }, reply]) => {
    const { task, body, result, texts } = reply;
    const entry = { name, blob, body: answer.bodyOf(reply) };
    if (task === 'detect') return { ...entry, ...result, detections: answer.above(reply) };
    return { ...entry, scores: result?.scores ?? texts.map((label, column) => ({ label, score: body.similarity[0][column] })) };
  });
}

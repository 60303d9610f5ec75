// One round of requests: about all pictures without an answer yet, with its progress and its cancelling.

import { askAll, keyOf } from './asking.js';
import { askForKey } from './keydialog.js';
import { Problem, key } from './server.js';

/** Sends a round at a time; `onProgress` is called whenever something changes. */
export class Sender {
  #round = null;

  constructor(onProgress) {
    this.onProgress = onProgress;
  }

  get busy() {
    return this.#round !== null;
  }

  /** "3 of 12" for a round of several requests, else ''. */
  get progress() {
    const { done, total } = this.#round ?? {};
    return total > 1 ? `${Math.min(done + 1, total)} of ${total}` : '';
  }

  /** True while `picture` waits for a reply. */
  waits(picture) {
    return Boolean(this.#round?.waiting.has(picture));
  }

  /**
   * Ask `questions`, one for each of `models`, about those of `pictures` that lack an answer, or all if none does.
   *
   * Asks for a key where one is needed. Returns true at the end, false if cancelled, or the problem that no picture has.
   */
  async send(pictures, questions, models, maxBytes) {
    const lacking = pictures.filter(({ replies }) => questions.some((question) => !replies.get(keyOf(question))?.body));
    const asked = lacking.length ? lacking : pictures;
    const jobs = asked.flatMap((picture) => questions.map((question, place) => ({ picture, question, model: models[place] })));
    for (const { picture, question } of jobs) picture.replies.delete(keyOf(question));
    const control = new AbortController();
    const round = { control, done: 0, total: jobs.length, waiting: new Set(asked) };
    this.#round = round;
    this.onProgress();
    const onReply = ({ picture }) => {
      round.done += 1;
      if (questions.every((question) => picture.replies.has(keyOf(question)))) round.waiting.delete(picture);
      this.onProgress();
    };
    try {
      await askAll(jobs, { maxBytes, signal: control.signal, onReply });
      return true;
    } catch (error) {
      if (this.#round !== round) return false;
      if (!(error instanceof Problem)) throw error;
      control.abort();
      if (!(await askForKey(key.get() ? error.detail : ''))) return error;
      return await this.send(pictures, questions, models, maxBytes);
    } finally {
      if (this.#round === round) {
        this.#round = null;
        this.onProgress();
      }
    }
  }

  /** Give up the round in progress, if there is one, and return whether there was. */
  cancel() {
    const round = this.#round;
    this.#round = null;
    round?.control.abort();
    return round !== null;
  }
}

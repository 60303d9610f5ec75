// The result: boxes, scores or a problem; and the threshold slider, which filters boxes without a new request.

import * as overlay from './overlay.js';
import * as results from './results.js';
import { above } from './thresholds.js';

const find = (id) => document.getElementById(id);
const ANNOUNCE_MS = 400; // the new threshold is announced to screen readers once the slider rests

/** The result card; `onChange` is called after each change of what it shows. */
export class Answer {
  #answer = null;
  #pinned = null;
  #timer = 0;

  constructor(onChange) {
    this.onChange = onChange;
    results.withArrows(find('results'));
    find('threshold').addEventListener('input', () => this.#moved());
    new ResizeObserver(() => this.#draw()).observe(find('photo'));
    document.addEventListener('keydown', ({ key }) => key === 'Escape' && this.#point(null, 'cleared'));
  }

  /** The detections above the threshold. */
  get shown() {
    return this.#answer?.task === 'detect' ? above(this.#answer.result.detections, this.threshold) : [];
  }

  /** The response body as the server would send it for the current threshold; null without a response. */
  get body() {
    if (!this.#answer) return null;
    const { body, task, result } = this.#answer;
    return task === 'detect' ? { ...body, results: [{ ...result, detections: this.shown }] } : body;
  }

  get threshold() {
    return Number(find('threshold').value);
  }

  /** Set the slider to the range `low` to 1 and to `value`. */
  setThreshold(low, value) {
    Object.assign(find('threshold'), { min: low, max: 1, value });
    this.#showThreshold();
  }

  /** Show the response `body` of `task`; `texts` are those of a similarity request. */
  show({ task, body, texts, low }) {
    this.clear();
    this.#answer = { task, body, texts, low, result: body.results?.[0] };
    find('threshold-field').hidden = task !== 'detect';
    const { model, timings_ms: timings } = body;
    const inside = timings.infer === undefined ? '' : `, ${Math.round(timings.infer)} ms of it in the model`;
    find('timing').textContent = `${model.name}, version ${model.version}: ${Math.round(timings.total)} ms${inside}`;
    if (task === 'detect') {
      results.dots(find('strip'), this.#answer.result.detections, low);
      this.#filter();
      this.#say(this.#summary());
    } else {
      this.#showList();
    }
    this.onChange();
  }

  /** Show a problem instead of a result. */
  fail({ title, detail, errors, requestId, retryAfter }) {
    this.clear();
    const lines = errors.length ? errors.map(({ field, reason }) => `${field}: ${reason}`) : [detail];
    if (retryAfter) lines.push(`Try again in ${retryAfter} s.`);
    const parts = [['strong', title], ...lines.map((line) => ['p', line])];
    if (requestId) parts.push(['small', `Request ${requestId}`]);
    find('problem').replaceChildren(...parts.map(([name, text]) => {
      const part = document.createElement(name);
      part.textContent = text;
      return part;
    }));
  }

  /** Show only the status text `words`. */
  clear(words = '') {
    this.#answer = null;
    this.#pinned = null;
    for (const id of ['problem', 'results', 'strip', 'overlay']) find(id).replaceChildren();
    for (const id of ['missing', 'timing']) find(id).textContent = '';
    find('threshold-field').hidden = true;
    find('answer').classList.remove('stale');
    this.#say(words);
    this.onChange();
  }

  /** Mark the result as outdated: the form has changed since the request. */
  outdate() {
    if (!this.#answer || find('answer').classList.contains('stale')) return;
    find('answer').classList.add('stale');
    this.#say('The form has changed since this result.');
  }

  #showList() {
    const { task, body, texts, result } = this.#answer;
    if (task === 'classify') results.listScores(find('results'), result.scores);
    else results.listCosines(find('results'), texts, body.similarity[0], body.logit_scale);
    const first = find('results').querySelector('.label').textContent;
    this.#say(task === 'classify' ? `Best: ${first}.` : `Closest: ${first}. Bars show the softmax, numbers the cosine similarity.`);
  }

  #moved() {
    this.#showThreshold();
    this.#pinned = null;
    this.#filter();
    clearTimeout(this.#timer);
    const stale = find('answer').classList.contains('stale');
    if (this.#answer && !stale) this.#timer = setTimeout(() => this.#say(this.#summary()), ANNOUNCE_MS);
    this.onChange();
  }

  #showThreshold() {
    find('threshold-value').textContent = this.threshold.toFixed(2);
    find('strip').style.setProperty('--at', find('threshold').value);
    for (const dot of find('strip').children) dot.classList.toggle('under', !(Number(dot.dataset.score) > this.threshold));
  }

  #filter() {
    if (this.#answer?.task !== 'detect') return;
    const { labels, detections } = this.#answer.result;
    results.listDetections(find('results'), this.shown, (index, how) => this.#point(index, how));
    find('missing').textContent = results.missing(labels, detections, this.shown);
    this.#showThreshold();
    this.#draw();
  }

  #draw() {
    if (this.#answer?.task !== 'detect') return;
    overlay.show(find('overlay'), this.shown, this.#answer.result.width, (index, how) => this.#point(index, how));
    overlay.highlight(find('overlay'), this.#pinned);
  }

  /** Highlight a box and its list entry while the pointer is over it, or as long as it is selected or focused. */
  #point(index, how) {
    if (how === 'chosen') {
      find('results').children[index].focus({ preventScroll: true });
      find('results').children[index].scrollIntoView({ block: 'nearest' });
    }
    if (how === 'focused') this.#pinned = index;
    if (how === 'blurred' || how === 'cleared') this.#pinned = null;
    const lit = how === 'over' ? index : this.#pinned;
    overlay.highlight(find('overlay'), lit);
    if (find('results').getAttribute('role') === 'listbox') results.select(find('results'), lit);
  }

  #summary() {
    const { detections } = this.#answer.result;
    const found = this.shown.length;
    if (found) return `${found} found above ${this.threshold.toFixed(2)}.`;
    const best = detections[0];
    const hint = best ? ` The best candidate is ${best.label} with ${best.score.toFixed(2)}.` : '';
    return `Nothing scores above ${this.threshold.toFixed(2)}.${hint}`;
  }

  #say(words) {
    clearTimeout(this.#timer);
    find('status').textContent = words;
  }
}

// The result of one model: boxes, scores or a problem; and the threshold slider, which filters boxes without a new request.

import * as downloads from './downloads.js';
import * as overlay from './overlay.js';
import * as results from './results.js';
import { above, lowestOf } from './thresholds.js';

const ANNOUNCE_MS = 400; // the new threshold is announced to screen readers once the slider rests

/** The result card whose ids end in `suffix`, with the boxes in `viewer`'s frame; `onMove` follows the threshold. */
export class Answer {
  #reply = null;
  #model = '';
  #pinned = null;
  #place = null;
  #told = null;
  #timer = 0;

  constructor(suffix, viewer, { onMove }) {
    this.find = (id) => document.getElementById(id + suffix);
    Object.assign(this, { viewer, onMove });
    results.withArrows(this.find('results'));
    this.find('threshold').addEventListener('input', () => this.#moved());
    viewer.onPlace = (place) => {
      this.#place = place;
      this.#draw();
    };
    document.addEventListener('keydown', ({ key }) => key === 'Escape' && this.#point(null, 'cleared'));
  }

  /** The detections above the threshold. */
  get shown() {
    return this.#reply?.task === 'detect' && this.#reply.body ? this.above(this.#reply) : [];
  }

  /** The response body as the server would send it for the current threshold; null without a response. */
  get body() {
    return this.#reply?.body ? this.bodyOf(this.#reply) : null;
  }

  get threshold() {
    return Number(this.find('threshold').value);
  }

  /** The detections of `reply` above the threshold. */
  above = ({ result }) => above(result.detections, this.threshold);

  /** The body of `reply` as the server would send it for the current threshold. */
  bodyOf(reply) {
    const { task, body, result } = reply;
    return task === 'detect' ? { ...body, results: [{ ...result, detections: this.above(reply) }] } : body;
  }

  set threshold(value) {
    this.find('threshold').value = value;
    this.#told = null;
    this.#filter();
  }

  /** Show answers of `model`; its name is a title (`named`) where there are two. */
  use(model, { named }) {
    this.find('answer-title').textContent = named ? model.name : 'Result';
    this.find('caption').hidden = !named;
    this.#caption();
    if (model.name === this.#model || !model.tasks.includes('detect')) return;
    this.#model = model.name;
    Object.assign(this.find('threshold'), { min: lowestOf(model), max: 1 });
    this.threshold = model.defaults.box_threshold;
  }

  /** Show `reply` (as from asking.js), or `words` without one; `stale` if the form has changed since. */
  present(reply, { words = '', stale = false, busy = false }) {
    this.find('answer').setAttribute('aria-busy', String(busy));
    this.find('answer').classList.toggle('stale', stale);
    if (reply !== this.#reply || !reply) this.#show(reply);
    downloads.offer(this.find('downloads'), { task: reply?.body && reply.task, drawable: this.viewer.visible });
    const told = [reply, stale, words];
    if (this.#told?.every((part, place) => part === told[place])) return; // the moving slider announces itself
    this.#told = told;
    if (stale) this.say('The form has changed since this result.');
    else if (reply) this.say(reply.body ? this.#summary() : '');
    else this.say(words);
  }

  /** Tell `words` in the status line until something else happens. */
  say(words) {
    clearTimeout(this.#timer);
    if (this.find('status').textContent !== words) this.find('status').textContent = words;
  }

  #show(reply) {
    this.#reply = reply;
    this.#pinned = null;
    for (const id of ['problem', 'results', 'strip', 'overlay']) this.find(id).replaceChildren();
    for (const id of ['missing', 'timing']) this.find(id).textContent = '';
    const { task, body, result, low, texts } = reply?.body ? reply : {};
    this.find('threshold-field').hidden = task !== 'detect';
    if (reply?.problem) this.#tell(reply.problem);
    if (task === 'detect') results.dots(this.find('strip'), result.detections, low);
    if (task === 'classify') results.listScores(this.find('results'), result.scores);
    if (task === 'similarity') results.listCosines(this.find('results'), texts, body.similarity[0], body.logit_scale);
    if (task) this.find('timing').textContent = timing(body);
    this.find('warnings').textContent = (body?.warnings ?? []).map(({ reason }) => reason).join(' ');
    this.#filter();
    this.#caption();
  }

  #tell({ title, detail, errors, requestId, retryAfter }) {
    const lines = errors.length ? errors.map(({ field, reason }) => `${field}: ${reason}`) : [detail];
    if (retryAfter) lines.push(`Try again in ${retryAfter} s.`);
    const parts = [['strong', title], ...lines.map((line) => ['p', line])];
    if (requestId) parts.push(['small', `Request ${requestId}`]);
    this.find('problem').replaceChildren(...parts.map(([name, text]) => {
      const part = document.createElement(name);
      part.textContent = text;
      return part;
    }));
  }

  #moved() {
    this.#pinned = null;
    this.#filter();
    this.#caption();
    clearTimeout(this.#timer);
    const stale = this.find('answer').classList.contains('stale');
    if (this.#reply?.body && !stale) this.#timer = setTimeout(() => this.say(this.#summary()), ANNOUNCE_MS);
    this.onMove();
  }

  #filter() {
    this.find('threshold-value').textContent = this.threshold.toFixed(2);
    this.find('strip').style.setProperty('--at', this.find('threshold').value);
    for (const dot of this.find('strip').children) dot.classList.toggle('under', !(Number(dot.dataset.score) > this.threshold));
    if (this.#reply?.task !== 'detect' || !this.#reply.body) return;
    const { labels, detections } = this.#reply.result;
    results.listDetections(this.find('results'), this.shown, (index, how) => this.#point(index, how));
    this.find('missing').textContent = results.missing(labels, detections, this.shown);
    this.#draw();
  }

  #draw() {
    if (!this.#place) return;
    overlay.show(this.find('overlay'), this.shown, this.#place, (index, how) => this.#point(index, how));
    overlay.highlight(this.find('overlay'), this.#pinned);
  }

  /** Highlight a box and its list entry while the pointer is over it, or as long as it is selected or focused. */
  #point(index, how) {
    const list = this.find('results');
    if (how === 'chosen') {
      list.children[index].focus({ preventScroll: true });
      list.children[index].scrollIntoView({ block: 'nearest' });
    }
    if (how === 'focused') this.#pinned = index;
    if (how === 'blurred' || how === 'cleared') this.#pinned = null;
    const lit = how === 'over' ? index : this.#pinned;
    overlay.highlight(this.find('overlay'), lit);
    if (list.getAttribute('role') === 'listbox') results.select(list, lit);
  }

  #summary() {
    const { task, result } = this.#reply;
    if (task !== 'detect') {
      const first = this.find('results').querySelector('.label').textContent;
      return task === 'classify' ? `Best: ${first}.` : `Closest: ${first}. Bars show the softmax, numbers the cosine similarity.`;
    }
    const found = this.shown.length;
    if (found) return `${found} found above ${this.threshold.toFixed(2)}.`;
    const [best] = result.detections;
    const hint = best ? ` The best candidate is ${best.label} with ${best.score.toFixed(2)}.` : '';
    return `Nothing scores above ${this.threshold.toFixed(2)}.${hint}`;
  }

  #caption() {
    const found = this.#reply?.task === 'detect' && this.#reply.body ? `: ${this.shown.length} found` : '';
    this.find('caption').textContent = this.find('answer-title').textContent + found;
  }
}

function timing({ model, timings_ms: timings }) {
  const inside = timings.infer === undefined ? '' : `, ${Math.round(timings.infer)} ms of it in the model`;
  return `${model.name}, version ${model.version}: ${Math.round(timings.total)} ms${inside}`;
}

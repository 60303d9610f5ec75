// A result as text: a list of detections or scores, and dots for the candidates over the threshold slider.

import { colourOf } from './colours.js';

/** Fill `list` with detections as a listbox: one Tab stop, arrow keys move within; `onPoint` as in overlay.js. */
export function listDetections(list, detections, onPoint) {
  const keptFocus = list.contains(document.activeElement);
  list.setAttribute('role', 'listbox');
  list.setAttribute('aria-label', 'Detections, best first');
  list.replaceChildren(...detections.map(({ label, label_id: labelId, score, matched }, index) => {
    const entry = entryOf(label, score.toFixed(2), score, colourOf(labelId));
    entry.querySelector('.label').replaceChildren(...marked(label, matched));
    entry.setAttribute('role', 'option');
    entry.setAttribute('aria-selected', 'false');
    entry.tabIndex = index === 0 ? 0 : -1;
    entry.addEventListener('pointerenter', () => onPoint(index, 'over'));
    entry.addEventListener('pointerleave', () => onPoint(index, 'out'));
    entry.addEventListener('focus', () => onPoint(index, 'focused'));
    entry.addEventListener('blur', () => onPoint(index, 'blurred'));
    return entry;
  }));
  if (keptFocus) list.firstElementChild?.focus();
}

/** Move through the entries of `list` with the arrow keys, Home and End. */
export function withArrows(list) {
  list.addEventListener('keydown', (event) => {
    const entries = [...list.children];
    const at = entries.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: entries.length - 1 }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    entries[Math.max(0, Math.min(to, entries.length - 1))].focus();
  });
}

/** Select the entry at `index`, or none, and make it the Tab stop. */
export function select(list, index) {
  [...list.children].forEach((entry, place) => {
    entry.setAttribute('aria-selected', String(place === index));
    if (index !== null) entry.tabIndex = place === index ? 0 : -1;
  });
}

/** Fill `list` with the scores of /classify, best first. */
export function listScores(list, scores) {
  plain(list, 'Labels, best first');
  list.replaceChildren(...scores.map(({ label, label_id: labelId, score }) => (
    entryOf(label, score.toFixed(3), score, colourOf(labelId)))));
}

/** Fill `list` with the cosines of `texts`, highest first; bars show the softmax with the model's logit scale. */
export function listCosines(list, texts, cosines, scale) {
  plain(list, 'Texts, closest first');
  const highest = Math.max(...cosines);
  const weights = cosines.map((cosine) => Math.exp(scale * (cosine - highest)));
  const sum = weights.reduce((total, weight) => total + weight, 0);
  const order = texts.map((_, place) => place).sort((a, b) => cosines[b] - cosines[a]);
  list.replaceChildren(...order.map((place) => (
    entryOf(texts[place], cosines[place].toFixed(3), weights[place] / sum, colourOf(place)))));
}

/** Put a dot for each of `detections` over the slider from `low` to 1. */
export function dots(strip, detections, low) {
  strip.replaceChildren(...detections.map(({ score, label_id: labelId }) => {
    const dot = document.createElement('i');
    dot.style.left = `${(100 * (score - low)) / (1 - low)}%`;
    dot.style.background = colourOf(labelId);
    dot.dataset.score = score;
    return dot;
  }));
}

/** A text with the `labels` that have no detection in `shown`, and their best scores in `all`. */
export function missing(labels, all, shown) {
  const seen = new Set(shown.map(({ label_id: labelId }) => labelId));
  const absent = labels.map((label, place) => [label, place]).filter(([, place]) => !seen.has(place));
  if (!absent.length) return '';
  return 'Not found: ' + absent.map(([label, place]) => {
    const best = all.find(({ label_id: labelId }) => labelId === place);
    return best ? `${label} (${best.score.toFixed(2)} at best)` : label;
  }).join(', ');
}

/** `label` in pieces: those words that score under the text threshold, outside the ranges `matched`, are faint. */
function marked(label, matched = []) {
  const letters = Array.from(label); // the ranges count characters, JavaScript's strings units of UTF-16
  const within = (place) => matched.some(([start, end]) => start <= place && place < end);
  if (!matched.length || letters.every((letter, place) => !letter.trim() || within(place))) return [label];
  const pieces = [];
  for (const [place, letter] of letters.entries()) {
    const name = within(place) ? '' : 'faint';
    if (pieces.at(-1)?.className !== name) pieces.push(Object.assign(document.createElement('span'), { className: name }));
    pieces.at(-1).textContent += letter;
  }
  return pieces;
}

function plain(list, name) {
  list.removeAttribute('role');
  list.setAttribute('aria-label', name);
}

function entryOf(label, number, share, colour) {
  const entry = document.createElement('li');
  const parts = ['swatch', 'label', 'meter', 'score'].map((name) => {
    const part = document.createElement('span');
    part.className = name;
    return part;
  });
  const [swatch, words, meter, score] = parts;
  swatch.style.background = colour;
  words.textContent = label;
  words.title = label;
  const bar = document.createElement('span');
  bar.style.width = `${100 * share}%`;
  bar.style.background = colour;
  meter.append(bar);
  score.textContent = number;
  entry.append(...parts);
  return entry;
}

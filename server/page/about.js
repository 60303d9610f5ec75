// What there is to know about a model: its weights, their licence and tests, and its card.

import { isOpen, key } from './server.js';

/** Tell in `place` about `models`, those that are asked; `none` is told where there is none. */
export function tell(place, models, none) {
  place.replaceChildren(...(models.length ? models.map(paragraphOf) : [lineOf('p', none)]));
}

/** True if each of a model's artefacts that are used is certified. */
export const proven = ({ artefacts }) => artefacts.every(({ in_use: used, certified }) => !used || certified);

function paragraphOf(model) {
  const paragraph = lineOf('p', '');
  const name = lineOf('strong', model.name);
  paragraph.append(name, ` ${model.licence}. Weights: ${model.source}. `);
  const lower = model.artefacts.filter(({ in_use: used, precision }) => used && precision !== 'fp32');
  if (lower.length) paragraph.append(`Computed: ${lower.map(({ part, precision }) => `${part} in ${precision}`).join(', ')}. `);
  if (!proven(model)) {
    const warning = lineOf('span', 'Not certified: its graph was not compared with the reference. ');
    warning.className = 'warning';
    paragraph.append(warning);
  }
  linkTo(paragraph, model);
  return paragraph;
}

/** A link to the model's card, if the server has one; a link sends no key, so it must need none. */
async function linkTo(paragraph, { name, card }) {
  if (typeof card !== 'string' || !card) return;
  const url = new URL(card.replace(/^\//, ''), document.baseURI);
  if (url.origin !== location.origin || (key.get() && !(await isOpen(url.href)))) return;
  const link = lineOf('a', 'Model card');
  Object.assign(link, { href: url.href, target: '_blank', rel: 'noopener' });
  link.setAttribute('aria-label', `Model card of ${name}`);
  paragraph.append(link);
}

function lineOf(tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}

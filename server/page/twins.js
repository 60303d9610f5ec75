// Second copies of parts of the page, for a second model; the ids in a copy end in its suffix.

const REFERENCES = ['for', 'aria-labelledby', 'aria-describedby', 'aria-controls'];

/** Add a copy of the element with `id` after it, `suffix` at the end of each id in it. */
export function twin(id, suffix) {
  const original = document.getElementById(id);
  const copy = original.cloneNode(true);
  const owned = new Set([copy, ...copy.querySelectorAll('[id]')].map((part) => part.id));
  for (const part of [copy, ...copy.querySelectorAll('*')]) {
    if (part.id) part.id += suffix;
    for (const name of REFERENCES) {
      const ids = part.getAttribute(name)?.split(' ').map((other) => (owned.has(other) ? other + suffix : other));
      if (ids) part.setAttribute(name, ids.join(' '));
    }
  }
  copy.classList.add('twin');
  original.after(copy);
}

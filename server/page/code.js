// The request as commands to copy, and the response: three tabs over one panel.

const find = (id) => document.getElementById(id);
const TABS = ['curl', 'python', 'json'];

/** The tabs; `texts` returns {text, hint} for a tab's name. */
export class Code {
  #tab = 'curl';

  constructor(texts) {
    this.texts = texts;
    for (const name of TABS) {
      const tab = find(`tab-${name}`);
      tab.addEventListener('click', () => this.#choose(name));
      tab.addEventListener('keydown', (event) => this.#arrow(event, name));
    }
    find('copy').addEventListener('click', () => copy(this.texts(this.#tab).text, find('copy'), find('snippet').firstElementChild));
  }

  /** Update the text of the selected tab. */
  render() {
    const { text, hint } = this.texts(this.#tab);
    const code = find('snippet').firstElementChild;
    if (code.textContent !== text) code.textContent = text;
    find('snippet-hint').textContent = hint;
  }

  #choose(name) {
    this.#tab = name;
    for (const other of TABS) {
      find(`tab-${other}`).setAttribute('aria-selected', String(other === name));
      find(`tab-${other}`).tabIndex = other === name ? 0 : -1;
    }
    find('snippet').setAttribute('aria-labelledby', `tab-${name}`);
    this.render();
  }

  #arrow(event, name) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = TABS[(TABS.indexOf(name) + step + TABS.length) % TABS.length];
    this.#choose(next);
    find(`tab-${next}`).focus();
  }
}

/** Copy `text`, and say so on `button`; `shown` is an element that has it too, if there is one. */
export async function copy(text, button, shown = null) {
  const before = button.lastChild.textContent;
  let done = 'Copied';
  try {
    await navigator.clipboard.writeText(text);
  } catch { // the clipboard needs https or localhost: select the text for the visitor to copy
    if (shown) getSelection().selectAllChildren(shown);
    done = shown && document.execCommand('copy') ? 'Copied' : shown ? 'Selected' : 'See the address bar';
  }
  if (before === done) return;
  button.lastChild.textContent = done;
  setTimeout(() => { button.lastChild.textContent = before; }, 2000);
}

/** `body` as JSON with each list of numbers on one line; strings contain no bare line breaks. */
export function json(body) {
  const oneLine = (_, numbers) => `[${numbers.replace(/\s+/g, ' ')}]`;
  return JSON.stringify(body, null, 1).replace(/\[\n\s*([-+.,\de\s]+?)\n\s*\]/g, oneLine);
}

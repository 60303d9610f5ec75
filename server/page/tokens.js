// An input for several texts: Enter (with `commas`, a comma too) ends one, Backspace edits the last, each can be removed.

import { colourOf } from './colours.js';

/** Turns `list` (ul) and `input` into such a field; `onChange` is called after each change, `onEnter` on Enter without text. */
export class Tokens {
  #texts = [];

  constructor(list, input, { onChange, onEnter }) {
    Object.assign(this, { list, input, onChange, onEnter, commas: true });
    input.addEventListener('keydown', (event) => this.#key(event));
    input.addEventListener('input', () => this.#typed());
    input.addEventListener('blur', () => this.commit());
    input.addEventListener('paste', (event) => this.#pasted(event));
  }

  /** The texts, including the one being typed. */
  get texts() {
    return [...this.#texts, ...this.#split(this.input.value)];
  }

  set texts(texts) {
    this.#texts = [...texts];
    this.input.value = '';
    this.#render();
  }

  /** End the text being typed. */
  commit() {
    const typed = this.#split(this.input.value);
    this.input.value = '';
    if (!typed.length) return;
    this.#texts.push(...typed);
    this.#render();
    this.onChange();
  }

  #split(text) {
    return text.split(this.commas ? /[,\n]/ : /\n/).map((part) => part.trim()).filter(Boolean);
  }

  #key(event) {
    if (event.isComposing) return; // Enter ends an input method's composition
    if (event.key === 'Enter') {
      event.preventDefault();
      if (this.input.value.trim()) this.commit();
      else this.onEnter();
    } else if (event.key === 'Backspace' && !this.input.value && this.#texts.length) {
      event.preventDefault();
      this.input.value = this.#texts.pop();
      this.#render();
      this.onChange();
    }
  }

  #typed() {
    if (this.commas && this.input.value.includes(',')) this.commit();
    else this.onChange();
  }

  #pasted(event) {
    const text = event.clipboardData?.getData('text/plain') ?? '';
    if (!text.includes('\n')) return; // the input would join the lines
    event.preventDefault();
    this.#texts.push(...this.#split(this.input.value + text));
    this.input.value = '';
    this.#render();
    this.onChange();
  }

  #remove(place) {
    this.#texts.splice(place, 1);
    this.#render();
    const buttons = this.list.querySelectorAll('button');
    (buttons[Math.min(place, buttons.length - 1)] ?? this.input).focus();
    this.onChange();
  }

  #render() {
    this.list.replaceChildren(...this.#texts.map((text, place) => {
      const entry = document.createElement('li');
      const dot = document.createElement('i');
      dot.style.background = colourOf(place); // the colour of its boxes
      const words = document.createElement('span');
      words.textContent = text;
      const button = document.createElement('button');
      button.type = 'button';
      button.textContent = '×';
      button.setAttribute('aria-label', `Remove ${text}`);
      button.addEventListener('click', () => this.#remove(place));
      entry.append(dot, words, button);
      return entry;
    }));
  }
}

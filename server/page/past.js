// The questions asked in this tab, with their pictures and answers, to go back to; nothing of it is stored.

const KEPT = 24;

/** The list in `place` (ol), within `section`, which is hidden while it is empty; `onChoose` gets the entry that is chosen. */
export class Past {
  entries = [];

  constructor({ section, place }, onChoose) {
    Object.assign(this, { section, place, onChoose });
  }

  /** Keep `entry`: `question`, `pictures`, and `summary`, a text; the same question about the same pictures is kept once. */
  add(entry) {
    const same = (other) => signatureOf(other) === signatureOf(entry);
    const at = this.entries.findIndex(same);
    if (at >= 0) this.entries.splice(at, 1);
    this.entries.unshift(entry);
    this.entries.length = Math.min(this.entries.length, KEPT);
    this.#render();
  }

  /** Forget all. */
  clear() {
    this.entries = [];
    this.#render();
  }

  #render() {
    this.section.hidden = !this.entries.length;
    this.place.replaceChildren(...this.entries.map((entry) => {
      const item = document.createElement('li');
      const button = document.createElement('button');
      button.type = 'button';
      const [first] = entry.pictures;
      const image = document.createElement('img');
      Object.assign(image, { alt: '', width: 56, height: 56, src: first.thumb || 'page/icon.svg' });
      const words = document.createElement('span');
      words.append(...[titleOf(entry), entry.summary].map((text, place) => {
        const line = document.createElement(place ? 'small' : 'strong');
        line.textContent = text;
        return line;
      }));
      button.append(image, words);
      button.addEventListener('click', () => this.onChoose(entry));
      item.append(button);
      return item;
    }));
  }
}

function titleOf({ question: { task, way, prompt, texts } }) {
  return task === 'detect' && way === 'prompt' ? prompt : texts.join(', ');
}

function signatureOf({ question, pictures }) {
  const { box_threshold: _, compare_threshold: __, ...rest } = question;
  return JSON.stringify([rest, pictures.map(({ src }) => src)]);
}

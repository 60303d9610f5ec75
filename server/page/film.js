// The filmstrip: the pictures to ask about, one of them shown.

/** The strip in `place` (ul); `onShow` is called with the picture to show (or null), `told` gives {text, kind} for one's badge. */
export class Film {
  pictures = [];
  current = null;
  #buttons = new Map();

  constructor(place, { onShow, told }) {
    Object.assign(this, { place, onShow, told });
    place.addEventListener('keydown', (event) => this.#key(event));
  }

  /** Add `pictures` and show the first of them; an example that is there gives way. */
  add(pictures) {
    this.pictures = [...this.pictures.filter(({ example }) => !example), ...pictures];
    this.show(pictures[0]);
  }

  /** Have these `pictures` alone. */
  set(pictures, current = pictures[0] ?? null) {
    this.pictures = [...pictures];
    this.show(current);
  }

  /** Remove `picture`, and show its neighbour if it was shown. */
  remove(picture) {
    const at = this.pictures.indexOf(picture);
    this.pictures = this.pictures.filter((other) => other !== picture);
    this.show(picture === this.current ? this.pictures[Math.min(at, this.pictures.length - 1)] ?? null : this.current);
  }

  /** Show `picture`, one of the strip, or none (null). */
  show(picture) {
    this.current = picture;
    const focused = this.place.contains(document.activeElement);
    this.#buttons = new Map(this.pictures.map((each) => [each, this.#buttonOf(each)]));
    this.place.replaceChildren(...[...this.#buttons.values()].map((button) => {
      const entry = document.createElement('li');
      entry.append(button);
      return entry;
    }));
    const now = this.#buttons.get(picture);
    if (focused) now?.focus();
    if (now) this.place.scrollLeft = now.offsetLeft - (this.place.clientWidth - now.offsetWidth) / 2;
    this.onShow(picture);
  }

  /** Tell on each picture's badge how it stands. */
  update() {
    for (const [picture, button] of this.#buttons) {
      const { text, kind } = this.told(picture);
      button.lastChild.className = `badge ${kind}`;
      button.lastChild.textContent = text;
    }
  }

  #buttonOf(picture) {
    const button = document.createElement('button');
    Object.assign(button, { type: 'button', title: picture.name, tabIndex: picture === this.current ? 0 : -1 });
    if (picture === this.current) button.setAttribute('aria-current', 'true');
    const image = document.createElement(picture.thumb ? 'img' : 'span');
    if (picture.thumb) Object.assign(image, { src: picture.thumb, alt: picture.name });
    else image.textContent = picture.name;
    button.append(image, document.createElement('span'));
    button.addEventListener('click', () => this.show(picture));
    return button;
  }

  #key(event) {
    const at = this.pictures.indexOf(this.current);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: this.pictures.length - 1 }[event.key];
    if (event.key === 'Delete') this.remove(this.current);
    else if (this.pictures[to]) this.show(this.pictures[to]);
    else return;
    event.preventDefault();
  }
}

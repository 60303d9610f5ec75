// A frame that shows the picture, placed by a view that other frames may share, and tells where it lies.

import { withGestures } from './gestures.js';
import { placed } from './view.js';

/** The frame `frame`; `onPlace` is called with the picture's place, {scale, x, y, width, height}, whenever that changes. */
export class Viewer {
  onPlace = () => {};
  #waiting = false;

  constructor(frame, view) {
    Object.assign(this, { frame, view });
    [this.shown, this.image, this.empty] = ['.shown', 'img', '.empty'].map((part) => frame.querySelector(part));
    withGestures(frame, {
      change: (change) => this.visible && view.change(change, this.#area, this.#natural),
      fit: () => view.fit(),
      zoomed: () => view.zoom > 1,
    });
    new ResizeObserver(() => this.place()).observe(this.shown);
  }

  get visible() {
    return !this.shown.hidden && this.image.naturalWidth > 0;
  }

  /** Show `picture`; false if the browser does not support its format (the server reads more). */
  async show(picture) {
    this.image.src = picture.src;
    this.image.alt = `The image in the request, ${picture.name}`;
    const readable = await this.image.decode().then(() => true, () => false);
    if (this.image.src !== picture.src) return readable; // another one was chosen meanwhile
    this.shown.hidden = !readable;
    this.empty.hidden = readable;
    if (readable) {
      this.shown.style.setProperty('--ratio', this.image.naturalWidth / this.image.naturalHeight);
      this.place();
    } else {
      this.say(`This browser cannot show ${picture.name}; the server may still be able to read it.`);
    }
    return readable;
  }

  /** Show no picture. */
  clear() {
    this.image.removeAttribute('src');
    this.shown.hidden = true;
    this.empty.hidden = false;
    this.say('');
  }

  /** Zoom by `factor` around the middle. */
  zoom(factor) {
    if (this.visible) this.view.change({ factor }, this.#area, this.#natural);
  }

  /** Show `words` in place of a picture; without any, those on how to bring one. */
  say(words) {
    this.empty.querySelector('.words').textContent = words || 'Drop, paste or choose images';
    this.empty.querySelector('.hint').hidden = Boolean(words);
  }

  /** Place the picture anew, once before the next frame. */
  place() {
    if (this.#waiting) return;
    this.#waiting = true;
    requestAnimationFrame(() => {
      this.#waiting = false;
      if (this.visible && this.#area.width) this.#place();
    });
  }

  #place() {
    const [area, natural] = [this.#area, this.#natural];
    const { scale, x, y } = placed(area, natural, this.view);
    const [width, height] = [natural.width, natural.height].map((side) => `${side * scale}px`);
    Object.assign(this.image.style, { width, height, transform: `translate(${x}px, ${y}px)` });
    this.frame.classList.toggle('zoomed', this.view.zoom > 1);
    this.onPlace({ scale, x, y, ...area });
  }

  get #area() {
    return { width: this.shown.clientWidth, height: this.shown.clientHeight };
  }

  get #natural() {
    return { width: this.image.naturalWidth, height: this.image.naturalHeight };
  }
}

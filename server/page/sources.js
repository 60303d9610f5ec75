// Where pictures come from: files, the examples, the camera, and addresses.

import { bringByAddress } from './address.js';
import { hasCamera, takePicture } from './camera.js';
import { EXAMPLES, addressOf, mark, offer } from './examples.js';
import { pictureOf, receive } from './picture.js';

const find = (id) => document.getElementById(id);
const NOT_SENT = 'The server did not send the example.';

/** All sources; `onBring` gets the pictures, `onExample` the example that is chosen, before its picture is there, `onFault` words. */
export class Sources {
  downloads = false; // whether the server downloads pictures
  #last = 0; // what was chosen last; an example that arrives after a later choice is dropped
  arriving = Promise.resolve(); // the download of the chosen example

  constructor({ onBring, onExample, onFault }) {
    Object.assign(this, { onBring, onExample, onFault });
    receive({ place: find('stage'), input: find('file'), onFiles: (files, others) => this.#files(files, others) });
    find('camera').hidden = !hasCamera();
    find('camera').addEventListener('click', () => takePicture((blob, name) => this.#bring([pictureOf(blob, name)])));
    find('by-address').addEventListener('click', () => bringByAddress({
      allowed: this.downloads,
      onPicture: (blob, name, url) => this.#bring([pictureOf(blob, name, { url })]),
    }));
  }

  /** Offer the examples for `task`; `shown` is the one that is shown, or none. */
  offer(task, shown) {
    offer(find('examples'), task, (example) => this.bringExample(example));
    this.mark(shown);
  }

  mark(example) {
    mark(find('examples'), example?.file);
  }

  /** Drop an example that is still to arrive. */
  dropArriving() {
    this.#last += 1;
  }

  bringExample(example = EXAMPLES[0]) {
    this.onExample(example);
    this.arriving = this.#fetch(example);
    return this.arriving;
  }

  async #fetch(example) {
    this.dropArriving();
    const mine = this.#last;
    const url = addressOf(example);
    const blob = await fetch(url).then((response) => (response.ok ? response.blob() : null), () => null);
    if (mine !== this.#last) return;
    if (blob) this.onBring([await pictureOf(blob, example.file, { url, example })]);
    else this.onFault(NOT_SENT);
  }

  async #bring(pictures) {
    this.dropArriving();
    this.onBring(await Promise.all(pictures));
  }

  async #files(files, others) {
    if (files.length) await this.#bring(files.map((file) => pictureOf(file, file.name || 'pasted.png')));
    if (!others) return;
    const which = others === 1 ? 'One file is' : `${others} files are`;
    this.onFault(`${which} not an image. Use JPEG, PNG, WebP, GIF, BMP or TIFF files.`);
  }
}

// Downloads of what was found: the drawn picture, and every picture's answer as JSON, CSV, COCO or YOLO.

import { downloadZip } from './client-zip.js';
import * as formats from './formats.js';
import { drawn } from './overlay.js';
import { save } from './picture.js';

const FILES = {
  json: (entries) => [JSON.stringify(entries.map(({ name, body }) => ({ image: name, ...body })), null, 1), 'openset.json'],
  csv: (entries) => [formats.csv(entries), 'detections.csv'],
  coco: (entries, model) => [formats.coco(entries, model), 'coco.json'],
  yolo: async (entries) => {
    const files = formats.yolo(entries).map(([name, input]) => ({ name, input }));
    return [await downloadZip(files).blob(), 'yolo.zip'];
  },
};
const TYPES = { json: 'application/json', coco: 'application/json', csv: 'text/csv', yolo: 'application/zip' };
const BOXES_ONLY = ['picture', 'coco', 'yolo'];

/**
 * The buttons in `place`, each with a kind of file in its data. `asked` returns what is downloaded: `task`, `model` (its
 * name), `image` (the element shown), `name`, `detections` (shown), and `entries` as in formats.js, each with its `body`.
 */
export function withDownloads(place, asked) {
  for (const button of place.querySelectorAll('button')) {
    button.addEventListener('click', async () => {
      const { model, image, name, detections, entries } = asked();
      const kind = button.dataset.file;
      if (kind === 'picture') return save(await drawn(image, detections), `${formats.stemOf(name)}-drawn.png`);
      const [content, called] = await FILES[kind](formats.unique(entries), model);
      return save(new Blob([content], { type: TYPES[kind] }), called);
    });
  }
}

/** Show the buttons in `place` that fit what is shown; without a `task`, none. */
export function offer(place, { task, drawable }) {
  place.hidden = !task;
  for (const button of place.querySelectorAll('button')) {
    button.hidden = task !== 'detect' && BOXES_ONLY.includes(button.dataset.file);
    if (button.dataset.file === 'picture') button.disabled = !task || !drawable;
  }
}

// Answers as files of other tools, in the forms in which `openset label` writes them.

const COLUMNS = ['image', 'label', 'score', 'x0', 'y0', 'x1', 'y1', 'width', 'height'];

/**
 * COCO: images, categories (ids from 1) and annotations with their `score`.
 *
 * `entries` have the image's name, and width, height, labels and detections as the server answers them (boxes x0, y0, x1,
 * y1); `model` is named as the source.
 */
export function coco(entries, model) {
  const names = categoriesOf(entries);
  const annotations = entries.flatMap(({ detections }, place) => detections.map(({ label, score, box }) => {
    const [x, y, width, height] = [box[0], box[1], box[2] - box[0], box[3] - box[1]].map((side) => rounded(side, 2));
    return {
      image_id: place + 1, category_id: names.indexOf(label) + 1, bbox: [x, y, width, height],
      area: rounded(width * height, 2), iscrowd: 0, score,
    };
  }));
  return JSON.stringify({
    info: { description: `Labelled by ${model} with Openset; not reviewed` },
    images: entries.map(({ name, width, height }, place) => ({ id: place + 1, file_name: name, width, height })),
    categories: names.map((name, place) => ({ id: place + 1, name })),
    annotations: annotations.map((annotation, place) => ({ id: place + 1, ...annotation })),
  });
}

/** YOLO: the files of a data set, [path, text or blob], with data.yaml, images and labels. */
export function yolo(entries) {
  const names = categoriesOf(entries);
  const files = entries.flatMap(({ name, blob, width, height, detections }) => {
    const lines = detections.map(({ label, box: [x0, y0, x1, y1] }) => {
      const sides = [(x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height];
      return `${[names.indexOf(label), ...sides.map((side) => side.toFixed(6))].join(' ')}\n`;
    });
    return [[`images/${name}`, blob], [`labels/${stemOf(name)}.txt`, lines.join('')]];
  });
  const yaml = `train: images\nval: images\nnames: ${JSON.stringify(names)}\n`; // JSON is YAML
  return [['data.yaml', yaml], ...files];
}

/** CSV: a row for each detection, or for each label's score (RFC 4180). */
export function csv(entries) {
  const rows = entries.flatMap(({ name, width, height, detections, scores }) => (detections
    ? detections.map(({ label, score, box }) => [name, label, score, ...box, width, height])
    : scores.map(({ label, score }) => [name, label, score])));
  const columns = entries.some(({ detections }) => detections) ? COLUMNS : COLUMNS.slice(0, 3);
  return [columns, ...rows].map((row) => `${row.map(cell).join(',')}\r\n`).join('');
}

/** The names of `entries` made unique: cat.jpg and cat.png become cat.jpg and cat-2.png. */
export function unique(entries) {
  const taken = new Set();
  return entries.map((entry) => {
    const plain = entry.name.replace(/[/\\]/g, '_');
    const [stem, suffix] = [stemOf(plain), plain.slice(stemOf(plain).length)];
    let name = stem;
    for (let number = 2; taken.has(name); number++) name = `${stem}-${number}`;
    taken.add(name);
    return { ...entry, name: name + suffix };
  });
}

export const stemOf = (name) => name.replace(/\.\w+$/, '');

const categoriesOf = (entries) => [...new Set(entries.flatMap(({ labels }) => labels))];
const rounded = (value, digits) => Number(value.toFixed(digits));
const cell = (value) => (/[",\r\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value));

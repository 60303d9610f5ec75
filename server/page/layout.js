// Layout of boxes and their label chips, in any unit: for the screen and for the downloaded image.

import { colourOf, textColour } from './colours.js';

const ELLIPSIS = '…';
const MAX_LABEL = 32; // characters on a chip
const HIDDEN_BEHIND = 0.35; // a chip covered more than this by better ones is shown only while its box is highlighted

/**
 * Boxes and chips of `detections` (best first, boxes x0, y0, x1, y1) on an area of `width` x `height`.
 *
 * The picture lies at `x`, `y`, and `scale` converts its pixels to the area's unit; `size` is the font size; `measure`
 * returns the width of a text. Every chip is inside the area, however long its label; what lies outside is left out.
 */
export function laidOut(detections, { width, height, scale, x = 0, y = 0, size, measure }) {
  const padding = Math.round(size * 0.4);
  const taken = [];
  return detections.flatMap((detection, index) => {
    const colour = colourOf(detection.label_id);
    const [x0, y0, x1, y1] = detection.box.map((edge, side) => edge * scale + (side % 2 ? y : x));
    if (x1 < 0 || y1 < 0 || x0 > width || y0 > height) return [];
    const box = { x: x0, y: y0, width: x1 - x0, height: y1 - y0 };
    const text = fitted(detection, width - 2 * padding, measure);
    const chip = placed(box, { width: measure(text) + 2 * padding, height: size + padding + 2 }, { width, height }, taken);
    const covered = coverage(chip, taken) / (chip.width * chip.height);
    if (covered <= HIDDEN_BEHIND) taken.push(chip);
    return [{ index, box, chip, text, padding, colour, textColour: textColour(colour), quiet: covered > HIDDEN_BEHIND }];
  });
}

function fitted({ label, score }, room, measure) {
  const letters = Array.from(label.replace(/\s+/g, ' '));
  for (const tail of [` ${score.toFixed(2)}`, '']) {
    for (let kept = Math.min(letters.length, MAX_LABEL); kept > 0; kept--) {
      const text = letters.slice(0, kept).join('').trimEnd() + (kept < letters.length ? ELLIPSIS : '') + tail;
      if (measure(text) <= room) return text;
    }
  }
  return '';
}

/** The position with the least overlap with chips already placed: above the box, inside at its top, below, and so on. */
function placed(box, chip, area, taken) {
  const right = box.x + box.width - chip.width;
  const bottom = box.y + box.height;
  const corners = [
    [box.x, box.y - chip.height], [box.x, box.y], [right, box.y - chip.height],
    [box.x, bottom], [box.x, bottom - chip.height], [right, bottom - chip.height],
  ];
  const places = corners.map(([x, y]) => ({
    x: Math.max(0, Math.min(x, area.width - chip.width)),
    y: Math.max(0, Math.min(y, area.height - chip.height)),
    width: Math.min(chip.width, area.width),
    height: Math.min(chip.height, area.height),
  }));
  const costs = places.map((place) => coverage(place, taken));
  return places[costs.indexOf(Math.min(...costs))];
}

function coverage(chip, others) {
  return others.reduce((sum, other) => {
    const width = Math.min(chip.x + chip.width, other.x + other.width) - Math.max(chip.x, other.x);
    const height = Math.min(chip.y + chip.height, other.y + other.height) - Math.max(chip.y, other.y);
    return sum + Math.max(0, width) * Math.max(0, height);
  }, 0);
}

// Drawing of boxes: as SVG over the image, with a highlight under the pointer, and on a canvas for download.

import { laidOut } from './layout.js';

const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif';
const MAX_PIXELS = 16_000_000; // a canvas size that every browser supports
const pen = document.createElement('canvas').getContext('2d');

/** Draw `detections` on `svg`, which covers the area of `place` (as from viewer.js). */
export function show(svg, detections, place, onPoint) {
  const { width, height } = place;
  svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
  const size = width < 420 ? 11 : 13;
  const marks = laidOut(detections, { ...place, size, measure: measureOf(size) });
  const worstFirst = [...marks].reverse();
  const largestFirst = [...marks].sort((a, b) => b.box.width * b.box.height - a.box.width * a.box.height);
  svg.replaceChildren(
    ...worstFirst.map((mark) => boxOf(mark)),
    ...worstFirst.map((mark) => chipOf(mark, size)),
    ...largestFirst.map((mark) => targetOf(mark, onPoint)), // the smallest on top, so that each can be reached
  );
}

/** Highlight the box at `index`, or none (null). */
export function highlight(svg, index) {
  svg.classList.toggle('pointing', index !== null);
  for (const part of svg.children) part.classList.toggle('lit', Number(part.dataset.index) === index);
  if (index === null) return;
  const target = svg.querySelector('.target');
  for (const part of svg.querySelectorAll('.lit:not(.target)')) target.before(part); // above its neighbours
}

/** A PNG blob of `image` with `detections` (boxes in its pixels) drawn on it. */
export function drawn(image, detections) {
  const { naturalWidth, naturalHeight } = image;
  const scale = Math.min(1, Math.sqrt(MAX_PIXELS / (naturalWidth * naturalHeight)));
  const canvas = document.createElement('canvas');
  canvas.width = Math.round(naturalWidth * scale);
  canvas.height = Math.round(naturalHeight * scale);
  const { width, height } = canvas;
  const context = canvas.getContext('2d');
  context.drawImage(image, 0, 0, width, height);
  const size = Math.max(11, Math.round(Math.min(width, height) / 30));
  const marks = laidOut(detections, { width, height, scale, size, measure: measureOf(size) }).reverse();
  const line = Math.max(2, size / 5);
  for (const { box, colour } of marks) {
    for (const [style, thickness] of [['#000000aa', line + 2], [colour, line]]) {
      context.strokeStyle = style;
      context.lineWidth = thickness;
      context.strokeRect(box.x, box.y, box.width, box.height);
    }
  }
  context.font = fontOf(size);
  context.textBaseline = 'middle';
  for (const { chip, text, padding, colour, textColour, quiet } of marks) {
    if (quiet) continue;
    context.fillStyle = colour;
    context.fillRect(chip.x, chip.y, chip.width, chip.height);
    context.fillStyle = textColour;
    context.fillText(text, chip.x + padding, chip.y + chip.height / 2);
  }
  return new Promise((resolve) => canvas.toBlob(resolve, 'image/png'));
}

const fontOf = (size) => `600 ${size}px ${FONT}`;

function measureOf(size) {
  return (text) => {
    pen.font = fontOf(size);
    return Math.ceil(pen.measureText(text).width);
  };
}

function boxOf({ index, box, colour }) {
  const group = element('g', { class: 'box', 'data-index': index, style: { color: colour } });
  group.append(element('rect', { ...box, rx: 3, class: 'halo' }), element('rect', { ...box, rx: 3, class: 'edge' }));
  return group;
}

function chipOf({ index, chip, text, padding, colour, textColour, quiet }, size) {
  const group = element('g', { class: quiet ? 'chip quiet' : 'chip', 'data-index': index });
  const words = element('text', {
    x: chip.x + padding, y: chip.y + chip.height / 2, fill: textColour, 'dominant-baseline': 'central', style: { font: fontOf(size) },
  });
  words.textContent = text;
  group.append(element('rect', { ...chip, rx: 4, fill: colour }), words);
  return group;
}

function targetOf({ index, box }, onPoint) {
  const target = element('rect', { ...box, class: 'target', 'data-index': index });
  target.addEventListener('pointerenter', ({ pointerType }) => pointerType === 'mouse' && onPoint(index, 'over'));
  target.addEventListener('pointerleave', ({ pointerType }) => pointerType === 'mouse' && onPoint(index, 'out'));
  target.addEventListener('click', () => onPoint(index, 'chosen'));
  return target;
}

function element(name, { style = {}, ...attributes }) {
  const made = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  Object.assign(made.style, style);
  return made;
}

// Zooming and panning of a frame: wheel, two fingers, dragging, double click, and keys.

const STEP = 1.5; // of a key or button
const DOUBLE = 2.5; // of a double click
const PAN = 60; // pixels of an arrow key
const CLICK = 4; // pixels that a pointer may stray and still click

/** Call `change` with {factor, point, shift} (in pixels of `frame`), and `fit`, as a visitor asks; `zoomed` tells if more than fits. */
export function withGestures(frame, { change, fit, zoomed }) {
  const pointers = new Map();
  let strayed = 0;

  frame.addEventListener('wheel', (event) => {
    if (!event.ctrlKey && !event.metaKey && !document.fullscreenElement) return; // the page scrolls
    event.preventDefault();
    change({ factor: Math.exp(-Math.max(-50, Math.min(50, event.deltaY)) * 0.008), point: pointIn(frame, event) });
  }, { passive: false });

  frame.addEventListener('dblclick', (event) => {
    if (zoomed()) fit();
    else change({ factor: DOUBLE, point: pointIn(frame, event) });
  });

  frame.addEventListener('pointerdown', (event) => {
    if (event.button !== 0) return;
    if (!pointers.size) strayed = 0;
    pointers.set(event.pointerId, pointIn(frame, event));
  });
  frame.addEventListener('pointermove', (event) => {
    const before = pointers.get(event.pointerId);
    if (event.buttons === 0) pointers.delete(event.pointerId); // released outside the frame
    if (!pointers.has(event.pointerId) || (pointers.size === 1 && !zoomed())) return;
    const now = pointIn(frame, event);
    const old = [...pointers.values()];
    pointers.set(event.pointerId, now);
    strayed += distance(before, now);
    if (strayed <= CLICK) return;
    frame.setPointerCapture(event.pointerId);
    frame.classList.add('dragging');
    change(moved(old, [...pointers.values()]));
  });
  for (const kind of ['pointerup', 'pointercancel']) {
    frame.addEventListener(kind, (event) => {
      pointers.delete(event.pointerId);
      if (!pointers.size) frame.classList.remove('dragging');
    });
  }
  frame.addEventListener('click', (event) => {
    if (strayed > CLICK) event.stopPropagation(); // the end of a drag
    strayed = 0;
  }, { capture: true });
  frame.addEventListener('dragstart', (event) => event.preventDefault());

  frame.addEventListener('keydown', (event) => {
    if (event.target !== frame || event.ctrlKey || event.metaKey || event.altKey) return;
    const pan = { ArrowLeft: [PAN, 0], ArrowRight: [-PAN, 0], ArrowUp: [0, PAN], ArrowDown: [0, -PAN] }[event.key];
    const factor = { '+': STEP, '=': STEP, '-': 1 / STEP }[event.key];
    if (factor) change({ factor });
    else if (event.key === '0') fit();
    else if (pan && zoomed()) change({ shift: { x: pan[0], y: pan[1] } });
    else return;
    event.preventDefault();
  });
}

/** The change by which the points `old` become `now`: a shift, and with two of them a zoom around their middle. */
function moved(old, now) {
  const [from, to] = [middle(old), middle(now)];
  const factor = now.length > 1 ? distance(now[0], now[1]) / Math.max(1, distance(old[0], old[1])) : 1;
  return { factor, point: from, shift: { x: to.x - from.x, y: to.y - from.y } };
}

function middle(points) {
  const two = points.slice(0, 2);
  const mean = (axis) => two.reduce((sum, point) => sum + point[axis], 0) / two.length;
  return { x: mean('x'), y: mean('y') };
}

const distance = (a, b) => Math.hypot(a.x - b.x, a.y - b.y);

function pointIn(frame, { clientX, clientY }) {
  const { left, top } = frame.getBoundingClientRect();
  return { x: clientX - left, y: clientY - top };
}

// The part of a picture that is shown: a zoom factor and a centre, shared by the frames that show it side by side.

export const MAX_ZOOM = 24;

/** Zoom (1 fits the whole picture) and centre, in shares of the picture's sides; `onChange` follows each change. */
export class View {
  zoom = 1;
  centre = { x: 0.5, y: 0.5 };

  constructor(onChange) {
    this.onChange = onChange;
  }

  /** Show the whole picture. */
  fit() {
    this.#set(1, { x: 0.5, y: 0.5 });
  }

  /**
   * Zoom by `factor` around a point of the `area` that shows a picture of the size `natural`, then move by `shift`.
   *
   * `point` and `shift` are in the area's pixels; the picture never leaves the area.
   */
  change({ factor = 1, point, shift = { x: 0, y: 0 } }, area, natural) {
    const before = placed(area, natural, this);
    const zoom = Math.max(1, Math.min(MAX_ZOOM, this.zoom * factor));
    const grown = zoom / this.zoom;
    const along = (side, axis) => {
      const at = point?.[axis] ?? area[side] / 2;
      const length = natural[side] * before.scale * grown;
      const start = at - (at - before[axis]) * grown + shift[axis];
      return length <= area[side] ? 0.5 : (area[side] / 2 - within(start, area[side] - length)) / length;
    };
    this.#set(zoom, { x: along('width', 'x'), y: along('height', 'y') });
  }

  #set(zoom, centre) {
    Object.assign(this, { zoom, centre });
    this.onChange();
  }
}

/** The place of a picture of the size `natural` in `area`: x, y of its corner, and `scale` from its pixels to the area's. */
export function placed(area, natural, { zoom, centre }) {
  const scale = Math.min(area.width / natural.width, area.height / natural.height) * zoom;
  const along = (side, axis) => {
    const length = natural[side] * scale;
    return length <= area[side] ? (area[side] - length) / 2 : within(area[side] / 2 - centre[axis] * length, area[side] - length);
  };
  return { scale, x: along('width', 'x'), y: along('height', 'y') };
}

const within = (start, lowest) => Math.min(0, Math.max(lowest, start));

// A colour for each label. The hues lie far apart in the order of the labels; each has the ink that reads best on it.

const PALETTE = [
  '#ff5a4f', '#2f7dff', '#ffc02e', '#12b886', '#b45cff', '#ff7ac2',
  '#19c3e6', '#ff8a1f', '#84cc16', '#5f5cf0', '#c9774a', '#e0e24a',
];

/** The colour of a label by its place in the request. */
export const colourOf = (labelId) => PALETTE[labelId % PALETTE.length];

/** Near-black or white, whichever contrasts more with `colour` (luminance as in WCAG 2). */
export function inkOn(colour) {
  const [red, green, blue] = [1, 3, 5].map((place) => {
    const part = parseInt(colour.slice(place, place + 2), 16) / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  const luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  return (luminance + 0.05) / 0.055 > 1.05 / (luminance + 0.05) ? '#0b0f0d' : '#ffffff';
}

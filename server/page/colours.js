// The colour of each label, by the rule of server/inference/drawing.py: a label has one colour in every picture.

const GOLDEN_RATIO = 0.618034;
const SATURATION = 0.85;
const LIGHTNESS = [0.5, 0.38, 0.64]; // a new one every 7 labels, since hues alone run out

/** The colour of a label by its index in the request; hues of neighbours are far apart. */
export function colourOf(labelId) {
  const hue = (0.02 + labelId * GOLDEN_RATIO) % 1;
  const lightness = LIGHTNESS[Math.floor(labelId / 7) % LIGHTNESS.length];
  const channels = [0, 8, 4].map((offset) => {
    const place = (offset + hue * 12) % 12;
    return lightness - SATURATION * Math.min(lightness, 1 - lightness) * Math.max(-1, Math.min(place - 3, 9 - place, 1));
  });
  return `#${channels.map((channel) => Math.round(channel * 255).toString(16).padStart(2, '0')).join('')}`;
}

/** Black or white, the one with more contrast on `colour` (luminance as in WCAG 2.1). */
export function textColour(colour) {
  const [red, green, blue] = [1, 3, 5].map((start) => (parseInt(colour.slice(start, start + 2), 16) / 255) ** 2.2);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 ? '#000000' : '#ffffff';
}

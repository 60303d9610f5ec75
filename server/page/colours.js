// The colour of each label, by the rule of server/inference/drawing.py: a label has one colour in every picture.

const PALETTE = [
  '#ff4d4f', '#2f80ff', '#1fc16b', '#ffb020', '#a855f7', '#14c4d8', '#ff5fa8',
  '#a3d420', '#ff7a1a', '#5b5bf0', '#0f9d8f', '#d6249f', '#9a6a3a', '#7f93a8',
];
const SHADES = [(value) => value, (value) => Math.floor((value * 3) / 5), (value) => Math.floor((value + 255) / 2)];

/** The colour of a label by its index in the request; after the palette come its darker, then its lighter shades. */
export function colourOf(labelId) {
  const shade = SHADES[Math.floor(labelId / PALETTE.length) % SHADES.length];
  const channels = channelsOf(PALETTE[labelId % PALETTE.length]).map(shade);
  return `#${channels.map((channel) => channel.toString(16).padStart(2, '0')).join('')}`;
}

/** Black or white, the one with more contrast on `colour` (luminance as in WCAG 2.1). */
export function textColour(colour) {
  const [red, green, blue] = channelsOf(colour).map((channel) => (channel / 255) ** 2.2);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 ? '#000000' : '#ffffff';
}

const channelsOf = (colour) => [1, 3, 5].map((start) => parseInt(colour.slice(start, start + 2), 16));

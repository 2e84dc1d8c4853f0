// Colours of classes, and of heat.

/** Red, green and blue of "#rrggbb". */
export const channels = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));

const hex = (values) => `#${values.map((value) => Math.round(value).toString(16).padStart(2, "0")).join("")}`;

/** A colour for each class: the model's, or else hues that differ much between neighbours. */
export function palette(model) {
  if (model.colours?.length === model.classes.length) return model.colours;
  return model.classes.map((_, index) => fromHue((index * 137.508 + 214) % 360, 0.62 + 0.12 * (index % 2)));
}

function fromHue(hue, lightness) {
  const chroma = 0.78 * (1 - Math.abs(2 * lightness - 1));
  return hex([0, 8, 4].map((offset) => {
    const k = (offset + hue / 30) % 12;
    return 255 * (lightness - (chroma / 2) * Math.max(-1, Math.min(k - 3, 9 - k, 1)));
  }));
}

/** Black or white, whichever is read more easily on a colour. */
export function textOn(colour) {
  const [red, green, blue] = channels(colour).map((value) => {
    const share = value / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 ? "#000000" : "#ffffff";
}

// Dark violet over red to pale yellow: as light as the value is high, so that it is read without colours, too.
const HEAT = ["#1b0c41", "#4a0c6b", "#781c6d", "#a52c60", "#cf4446", "#ed6925", "#fb9b06", "#f7d13d", "#fcffa4"].map(channels);

/** Red, green and blue of a value from 0 to 1. */
export function heat(value) {
  const at = Math.min(Math.max(value, 0), 1) * (HEAT.length - 1);
  const low = Math.min(Math.floor(at), HEAT.length - 2);
  return HEAT[low].map((channel, index) => channel + (at - low) * (HEAT[low + 1][index] - channel));
}

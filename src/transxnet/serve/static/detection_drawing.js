// Drawing objects on a picture.

import { channels, textOn } from "./colours.js";
import { maskWithin, paintMask } from "./masks.js";

const LONGEST = 24; // characters of a name on the picture

/** A rectangle [left, top, width, height] from sides [left, top, right, bottom]. */
const rectangle = ([left, top, right, bottom]) => [left, top, right - left, bottom - top];

/** An object's mask as a canvas with its position, made when it is first drawn. */
function maskOf(object) {
  if (object.mask === undefined) {
    const { segmentation, bbox } = object.result ?? {};
    object.mask = null;
    if (segmentation?.counts) {
      const mask = maskWithin(segmentation, bbox ?? rectangle(object.box));
      object.mask = { ...mask, canvas: paintMask(mask, channels(object.colour)) };
    }
  }
  return object.mask;
}

/** Draw objects, the least certain first; others than the one that is `lit` are faint. */
export function drawObjects(context, pixel, objects, lit, shown) {
  const ordered = objects.filter((object) => object !== lit).reverse();
  if (lit && objects.includes(lit)) ordered.push(lit);
  for (const object of ordered) {
    context.globalAlpha = lit && object !== lit ? 0.22 : 1;
    const mask = shown.masks ? maskOf(object) : null;
    if (mask) {
      const { left, top, width, height, step, canvas } = mask;
      context.drawImage(canvas, left, top, Math.max(1, width) * step, Math.max(1, height) * step);
    }
    if (shown.boxes || object === lit) drawBox(context, pixel, object, object === lit);
  }
  context.globalAlpha = 1;
  for (const object of ordered) if (lit ? object === lit : shown.labels) drawLabel(context, pixel, object, lit);
}

/** The dark line beneath keeps light colours apart from a light picture. */
function drawBox(context, pixel, { box, colour }, lit) {
  context.lineJoin = "round";
  for (const [style, width] of [["rgb(0 0 0 / 0.45)", lit ? 5.5 : 3.5], [colour, lit ? 3.5 : 2]]) {
    context.strokeStyle = style;
    context.lineWidth = width * pixel;
    context.strokeRect(...rectangle(box));
  }
}

/** Above the box, or inside it where the picture ends; with the whole name if the object is `lit`. */
function drawLabel(context, pixel, object, lit) {
  const { class: name, score, box: [left, top], colour } = object;
  const fits = object === lit || name.length <= LONGEST;
  const text = `${fits ? name : `${name.slice(0, LONGEST - 1)}…`} ${Math.round(100 * score)} %`;
  const height = 19 * pixel;
  context.font = `600 ${12 * pixel}px system-ui, sans-serif`;
  const width = context.measureText(text).width + 12 * pixel;
  const x = Math.max(0, Math.min(left - pixel, context.canvas.width / context.getTransform().a - width));
  const y = top - height < 0 ? Math.max(0, top) : top - height;
  context.fillStyle = colour;
  context.beginPath();
  context.roundRect(x, y, width, height, 4 * pixel);
  context.fill();
  context.fillStyle = textOn(colour);
  context.textBaseline = "middle";
  context.fillText(text, x + 6 * pixel, y + height / 2 + 0.5 * pixel);
}

/** The smallest object whose box has a point in it, if any. */
export function objectAt(objects, [x, y]) {
  const area = ([left, top, right, bottom]) => (right - left) * (bottom - top);
  const under = objects.filter(({ box }) => x >= box[0] && x <= box[2] && y >= box[1] && y <= box[3]);
  return under.sort((a, b) => area(a.box) - area(b.box))[0] ?? null;
}

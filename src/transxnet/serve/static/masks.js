// Masks of objects: COCO's compressed run lengths, and drawing them.

/** Runs of zeros and ones in turn, column by column. Five bits a character; later runs are differences. */
export function runLengths(counts) {
  const runs = [];
  for (let at = 0; at < counts.length; ) {
    let value = 0;
    let shift = 0;
    let digit;
    do {
      digit = counts.charCodeAt(at++) - 48;
      value |= (digit & 31) << shift;
      shift += 5;
    } while (digit & 32 && at < counts.length);
    if (digit & 16 && shift < 32) value |= -1 << shift;
    if (runs.length > 2) value += runs.at(-2);
    runs.push(value);
  }
  return runs;
}

/**
 * The part of a mask in a box, in every `step`-th pixel of each direction: {left, top, width, height, values}, where
 * left and top are pixels of the image.
 */
export function maskWithin({ size: [height, width], counts }, [x, y, w, h], limit = 640) {
  const left = Math.max(0, Math.floor(x) - 1);
  const top = Math.max(0, Math.floor(y) - 1);
  const right = Math.min(width, Math.ceil(x + w) + 1);
  const bottom = Math.min(height, Math.ceil(y + h) + 1);
  const step = Math.max(1, Math.ceil(Math.max(right - left, bottom - top) / limit));
  const columns = Math.max(0, Math.ceil((right - left) / step));
  const rows = Math.max(0, Math.ceil((bottom - top) / step));
  const values = new Uint8Array(columns * rows);
  const runs = runLengths(counts);
  let run = 0;
  let end = runs[0] ?? 0;
  for (let column = 0; column < columns; column++) {
    for (let row = 0; row < rows; row++) {
      const position = (left + column * step) * height + top + row * step;
      while (end <= position && run < runs.length - 1) end += runs[++run];
      if (position < end) values[row * columns + column] = run & 1;
    }
  }
  return { left, top, width: columns, height: rows, step, values };
}

/** A canvas with a mask in a colour, whose edge is opaque. */
export function paintMask({ width, height, values }, [red, green, blue]) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [Math.max(1, width), Math.max(1, height)];
  if (!width || !height) return canvas;
  const pixels = new ImageData(width, height);
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      if (!values[at]) continue;
      const inside =
        x > 0 && y > 0 && x < width - 1 && y < height - 1 &&
        values[at - 1] && values[at + 1] && values[at - width] && values[at + width];
      pixels.data.set([red, green, blue, inside ? 110 : 230], 4 * at);
    }
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

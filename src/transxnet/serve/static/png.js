// Grey PNG files, decoded to their exact values: a canvas has no 16 bits, and some browsers add noise to what it holds.

/** The values of a grey PNG of 8 or 16 bits in base64: {width, height, values}. */
export async function decodeGrey(base64) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const { width, height, deep, packed } = parse(bytes);
  const stream = new Blob(packed).stream().pipeThrough(new DecompressionStream("deflate"));
  const rows = new Uint8Array(await new Response(stream).arrayBuffer());
  const step = deep ? 2 : 1;
  unfilter(rows, width * step, height, step);
  const values = deep ? new Uint16Array(width * height) : new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    const start = y * (width * step + 1) + 1;
    if (deep) for (let x = 0; x < width; x++) values[y * width + x] = (rows[start + 2 * x] << 8) | rows[start + 2 * x + 1];
    else values.set(rows.subarray(start, start + width), y * width);
  }
  return { width, height, values };
}

function parse(bytes) {
  const view = new DataView(bytes.buffer);
  const [depth, colour, , , interlaced] = bytes.subarray(24, 29);
  if (view.getUint32(0) !== 0x89504e47 || colour !== 0 || ![8, 16].includes(depth) || interlaced) {
    throw new Error("not a grey PNG of 8 or 16 bits");
  }
  const packed = [];
  for (let at = 8; at + 8 <= bytes.length; ) {
    const length = view.getUint32(at);
    if (view.getUint32(at + 4) === 0x49444154) packed.push(bytes.subarray(at + 8, at + 8 + length)); // IDAT
    at += length + 12;
  }
  return { width: view.getUint32(16), height: view.getUint32(20), deep: depth === 16, packed };
}

/** Undo the filter of each row, whose number is before it. */
function unfilter(rows, length, height, step) {
  for (let y = 0; y < height; y++) {
    const start = y * (length + 1) + 1;
    const above = start - length - 1;
    const filter = rows[start - 1];
    for (let x = 0; filter > 0 && x < length; x++) {
      const left = x >= step ? rows[start + x - step] : 0;
      const up = y > 0 ? rows[above + x] : 0;
      const corner = x >= step && y > 0 ? rows[above + x - step] : 0;
      rows[start + x] += filter === 1 ? left : filter === 2 ? up : filter === 3 ? (left + up) >> 1 : paeth(left, up, corner);
    }
  }
}

function paeth(left, up, corner) {
  const [a, b, c] = [Math.abs(up - corner), Math.abs(left - corner), Math.abs(left + up - 2 * corner)];
  if (a <= b && a <= c) return left;
  return b <= c ? up : corner;
}

// Results of a segmenter: the label map over the picture, a legend with shares, and the class under the pointer.

import { channels, palette } from "./colours.js";
import { announce, make, percent, roving } from "./dom.js";
import { decodeGrey } from "./png.js";

const HINT = "Point at the picture to see a class.";
const LARGEST = 1600; // pixels of the painted map's longer side; the values keep theirs

/** Classes in a map with their shares, the largest first. */
function sharesOf(values, names) {
  const counts = new Map();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  const shares = [...counts].map(([index, number]) => ({
    index,
    name: names[index] ?? `class ${index}`,
    share: number / values.length,
  }));
  return shares.sort((a, b) => b.share - a.share);
}

export function createSegmentation({ model, viewer, controls, found }) {
  const colours = palette(model);
  const colourOf = (index) => colours[index] ?? "#8a8a8a";
  const hidden = new Set(); // indices of classes
  const canvas = document.createElement("canvas");
  const overlay = viewer.canvas;
  let opacity = 0.6;
  let map = null; // {width, height, values, shares} of the entry that is shown
  let lit = null;
  let cross = null; // position of the keyboard's crosshair
  let current = null;

  const value = make("output", { for: "opacity" });
  const slider = make("input", {
    type: "range", id: "opacity", min: 0, max: 1, step: 0.01, value: opacity,
    input: () => {
      opacity = Number(slider.value);
      describeOpacity();
      viewer.redraw();
    },
  });
  const describeOpacity = () => {
    value.textContent = `${Math.round(100 * opacity)} %`;
    slider.setAttribute("aria-valuetext", value.textContent);
  };
  const readout = make("p", { class: "readout", id: "readout" });
  controls.append(
    make("div", { class: "control" }, make("label", { for: "opacity" }, "Opacity"), slider, value),
    readout,
  );
  describeOpacity();

  const bar = make("div", { class: "shares", "aria-hidden": "true" });
  const legend = make("ul", { class: "legend", "aria-label": "Classes to show" });
  const refresh = roving(legend, ".key");

  /** Paint the map, whose classes are faint unless one is lit. */
  function paint() {
    if (!map) return;
    const step = Math.max(1, Math.ceil(Math.max(map.width, map.height) / LARGEST));
    const [width, height] = [Math.ceil(map.width / step), Math.ceil(map.height / step)];
    const table = new Map(map.shares.map(({ index }) => {
      const alpha = hidden.has(index) ? 0 : lit === null || lit === index ? 255 : 40;
      return [index, [...channels(colourOf(index)), alpha]];
    }));
    const pixels = new ImageData(width, height);
    for (let y = 0, at = 0; y < height; y++) {
      for (let x = 0; x < width; x++, at += 4) {
        const [red, green, blue, alpha] = table.get(map.values[y * step * map.width + x * step]);
        pixels.data[at] = red;
        pixels.data[at + 1] = green;
        pixels.data[at + 2] = blue;
        pixels.data[at + 3] = alpha;
      }
    }
    [canvas.width, canvas.height] = [width, height];
    canvas.getContext("2d").putImageData(pixels, 0, 0);
    viewer.redraw();
  }

  function draw(context, pixel) {
    const [width, height] = viewer.size;
    context.imageSmoothingEnabled = false;
    context.globalAlpha = opacity;
    context.drawImage(canvas, 0, 0, width, height);
    context.globalAlpha = 1;
    if (!cross) return;
    for (const [style, line] of [["#000", 3], ["#fff", 1.2]]) {
      context.strokeStyle = style;
      context.lineWidth = line * pixel;
      const [x, y, arm] = [cross[0] + 0.5, cross[1] + 0.5, 14 * pixel];
      context.stroke(new Path2D(`M${x - arm} ${y}H${x + arm}M${x} ${y - arm}V${y + arm}`));
    }
  }

  /** Show the class at a point; returns its name. */
  function read(point) {
    if (!map || !point) {
      readout.replaceChildren(HINT);
      return "";
    }
    const [x, y] = point.map((side, axis) => Math.min(Math.max(Math.floor(side), 0), [map.width, map.height][axis] - 1));
    const index = map.values[y * map.width + x];
    const name = model.classes[index] ?? `class ${index}`;
    readout.replaceChildren(
      make("span", { class: "swatch", vars: { "--colour": colourOf(index) } }),
      make("span", {}, `${name} at ${x}, ${y}`),
    );
    return name;
  }

  function key({ index, name, share }) {
    const highlight = (on) => {
      lit = on && !hidden.has(index) ? index : null;
      paint();
    };
    const swatch = make("span", { class: "swatch", vars: { "--colour": colourOf(index) } });
    const button = make("button", {
      type: "button", class: "key", "aria-pressed": String(!hidden.has(index)),
      pointerenter: () => highlight(true),
      pointerleave: () => highlight(false),
      click: () => {
        if (!hidden.delete(index)) hidden.add(index);
        button.setAttribute("aria-pressed", String(!hidden.has(index)));
        highlight(button.matches(":hover"));
      },
    }, swatch, make("span", { class: "name" }, name), make("span", { class: "count" }, percent(share)));
    return make("li", {}, button);
  }

  const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  overlay.addEventListener("keydown", (event) => {
    const move = MOVES[event.key];
    if (!map || !move) return;
    event.preventDefault();
    const step = event.shiftKey ? 1 : Math.max(1, Math.round(Math.max(map.width, map.height) / 40));
    const size = [map.width, map.height];
    cross = cross
      ? cross.map((side, axis) => Math.min(Math.max(side + step * move[axis], 0), size[axis] - 1))
      : size.map((side) => Math.floor(side / 2));
    announce(read(cross));
    viewer.redraw();
  });
  overlay.addEventListener("blur", () => {
    cross = null;
    read(null);
    viewer.redraw();
  });

  async function show(entry) {
    current = entry;
    map = cross = lit = null;
    const { prediction } = entry.answer;
    const problem = make("p", { class: "bad" });
    found.replaceChildren(problem);
    read(null);
    try {
      entry.map ??= await decodeGrey(prediction.label_map);
    } catch (error) {
      problem.textContent = `The label map cannot be shown: ${error.message}.`;
      return;
    }
    if (current !== entry) return;
    map = entry.map;
    map.shares ??= sharesOf(map.values, model.classes);
    legend.replaceChildren(...map.shares.map(key));
    bar.replaceChildren(...map.shares.map(({ index, share }) =>
      make("span", { vars: { "--share": share, "--colour": colourOf(index) } })));
    const number = map.shares.length;
    found.replaceChildren(make("div", { class: "part" },
      make("h3", {}, `${number} ${number === 1 ? "class" : "classes"}, by share of the picture`), bar, legend));
    refresh();
    overlay.removeAttribute("aria-hidden");
    overlay.setAttribute("role", "application");
    overlay.setAttribute("aria-label", "Label map. The arrow keys move a crosshair, with Shift by one pixel.");
    overlay.tabIndex = 0;
    paint();
    viewer.paint(draw, prediction.width, prediction.height);
    viewer.onpoint = (point) => {
      if (point) cross = null;
      read(point ?? cross);
      viewer.redraw();
    };
  }

  return {
    query: {},
    show,

    hide() {
      map = current = null;
      overlay.setAttribute("aria-hidden", "true");
      overlay.removeAttribute("tabindex");
    },

    summary({ answer }) {
      const parts = Object.entries(answer.prediction.shares).map(([name, share]) => `${name} ${percent(share)}`);
      return parts.slice(0, 4).join(", ");
    },

    table({ answer }) {
      const rows = Object.entries(answer.prediction.shares).map(([name, share]) => [name, share.toFixed(6)]);
      return { heads: ["Class", "Share"], rows };
    },
  };
}

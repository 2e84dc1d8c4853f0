// Grad-CAM: the switch, stage, class and opacity, and the heat map on the picture.

import { heat } from "./colours.js";
import { announce, byId, make, percent } from "./dom.js";
import { decodeGrey } from "./png.js";

/** A canvas with a heat map, which is clearer where the network saw little. */
function paintHeat({ width, height, values }) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  const pixels = new ImageData(width, height);
  const most = values.BYTES_PER_ELEMENT === 2 ? 65535 : 255;
  values.forEach((value, at) => {
    const share = value / most;
    pixels.data.set([...heat(share), 255 * (0.35 + 0.65 * share)], 4 * at);
  });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

/** How the server is asked for a class: by name, or by index where classes share one. */
export function classParameter(classes, name) {
  const index = classes.indexOf(name);
  return index === classes.lastIndexOf(name) ? name : String(index);
}

/** The controls of Grad-CAM. `changed` is called after the class has changed, `ask` is Server.predict for an entry. */
export class GradCam {
  constructor(model, viewer, controls, ask, changed) {
    Object.assign(this, { model, viewer, ask, changed });
    this.stage = model.stages;
    this.opacity = 0.65;
    this.entry = null;
    this.build(controls);
  }

  build(controls) {
    this.on = make("input", { type: "checkbox", role: "switch", id: "gradcam", change: () => this.update() });
    const stages = Array.from({ length: this.model.stages }, (_, index) => index + 1).map((stage) =>
      make("label", {}, make("input", {
        type: "radio", name: "stage", value: stage, "aria-label": `Stage ${stage}`, checked: stage === this.stage,
        change: () => {
          this.stage = stage;
          this.update();
        },
      }), String(stage)),
    );
    const options = [...new Set(this.model.classes)].map((name) => make("option", { value: name }));
    this.field = make("input", {
      class: "field", id: "gradcam-class", list: "classes", autocomplete: "off", spellcheck: "false",
      change: () => this.choose(this.field.value.trim()),
      focus: () => this.field.select(),
    });
    this.slider = make("input", {
      type: "range", id: "opacity", min: 0, max: 1, step: 0.01, value: this.opacity,
      input: () => {
        this.opacity = Number(this.slider.value);
        this.slider.setAttribute("aria-valuetext", percent(this.opacity));
        this.viewer.redraw();
      },
    });
    this.radios = make("div", { class: "segments", role: "radiogroup", "aria-labelledby": "stage-label" }, stages);
    this.parts = [
      make("div", { class: "control" }, make("span", { id: "stage-label" }, "Stage"), this.radios),
      make("div", { class: "control" }, make("label", { for: "gradcam-class" }, "Class"), this.field),
      make("div", { class: "control" }, make("label", { for: "opacity" }, "Opacity"), this.slider),
    ];
    this.problem = make("p", { class: "problem", role: "alert" });
    controls.append(
      make("label", { class: "switch" }, this.on, "Grad-CAM"),
      ...this.parts,
      make("datalist", { id: "classes" }, options),
      this.problem,
    );
    this.enable();
  }

  enable() {
    this.radios.setAttribute("aria-disabled", String(!this.on.checked));
    for (const part of this.parts) {
      part.classList.toggle("disabled", !this.on.checked);
      for (const field of part.querySelectorAll("input")) field.disabled = !this.on.checked;
    }
  }

  /** The class whose map is shown; the most probable one unless the reader has chosen. */
  get label() {
    return this.entry?.label ?? this.entry?.answer?.prediction.answers[0]?.class ?? "";
  }

  /** Show the map of a class, which turns the switch on. */
  choose(name) {
    if (!this.model.classes.includes(name)) {
      this.problem.textContent = `The network has no class “${name}”. Choose one of the list.`;
      return;
    }
    if (this.entry) this.entry.label = name;
    this.on.checked = true;
    this.update();
  }

  show(entry) {
    this.entry = entry;
    this.update();
  }

  /** While another image has no results. */
  hide() {
    this.show(null);
  }

  /** Draw the map that is wanted, after asking for it unless it is there. */
  async update() {
    this.enable();
    this.problem.textContent = "";
    byId("busy").hidden = true;
    this.field.value = this.label;
    this.changed();
    const { entry, stage, label } = this;
    if (!entry) return;
    const { width, height } = entry.answer.prediction;
    if (!this.on.checked) {
      this.viewer.paint(null, width, height);
      return;
    }
    entry.maps ??= new Map();
    const key = `${stage} ${label}`;
    if (!entry.maps.has(key)) entry.maps.set(key, this.request(entry, stage, label));
    byId("busy").hidden = false;
    const wanted = () => entry === this.entry && key === `${this.stage} ${this.label}` && this.on.checked;
    try {
      const map = await entry.maps.get(key);
      if (!wanted()) return;
      byId("busy").hidden = true;
      this.viewer.paint((context) => this.draw(context, map), width, height);
      announce(`Heat map of stage ${stage} for ${label}`);
    } catch (error) {
      entry.maps.delete(key);
      if (!wanted()) return;
      byId("busy").hidden = true;
      this.problem.textContent = error.message;
    }
  }

  async request(entry, stage, label) {
    const query = { explain: "gradcam", stage, class: classParameter(this.model.classes, label) };
    const { prediction } = await this.ask(entry, query);
    if (!prediction.gradcam) throw new Error("The server gave no heat map.");
    const { png, area } = prediction.gradcam;
    return { area, canvas: paintHeat(await decodeGrey(png)) };
  }

  /** Only a part of the image may have gone into the network; the rest is darkened. */
  draw(context, { area: [left, top, right, bottom], canvas }) {
    const [width, height] = this.viewer.size;
    context.globalAlpha = this.opacity;
    context.imageSmoothingQuality = "high";
    context.drawImage(canvas, left, top, right - left, bottom - top);
    context.fillStyle = "rgb(0 0 0 / 0.6)";
    context.fill(new Path2D(`M0 0H${width}V${height}H0ZM${left} ${top}V${bottom}H${right}V${top}Z`));
    context.globalAlpha = 1;
  }
}

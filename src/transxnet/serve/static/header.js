// The network in the header, and what the server takes.

import { byId, make } from "./dom.js";
import { megabytes, typeNames } from "./intake.js";

const TASKS = { classification: "Classification", detection: "Object detection", segmentation: "Semantic segmentation" };
const EXTRA = ["Parameters", "Device"]; // not shown on small screens

/** Numbers for people: "12.8 M". */
function short(number) {
  if (number >= 1e6) return `${(number / 1e6).toFixed(1)} M`;
  return number >= 1e3 ? `${(number / 1e3).toFixed(0)} k` : String(number);
}

export function describeModel(model) {
  const task = TASKS[model.task] ?? model.task;
  document.title = `${model.name}: ${task.toLowerCase()}`;
  byId("name").textContent = model.name;
  byId("task").textContent = `${task}, ${model.classes.length} classes`;
  const facts = {
    Input: model.input ? `${model.input.width} × ${model.input.height}` : "Any size",
    Precision: model.fused ? `${model.precision}, fused` : model.precision,
    Parameters: model.parameters ? short(model.parameters) : "",
    Device: model.device,
    Checkpoint: model.checkpoint,
  };
  byId("facts").replaceChildren(...Object.entries(facts).filter(([, value]) => value).map(([name, value]) =>
    make("div", EXTRA.includes(name) ? { class: "extra" } : {}, make("dt", {}, name), make("dd", {}, value))));
  byId("version").textContent = model.version ? `transxnet ${model.version}` : "";
  describeLimits(model);
}

function describeLimits({ types = [], limits = {} }) {
  const common = types.filter((type) => /jpeg|png|webp/.test(type));
  const kinds = common.length ? `${typeNames(common)}${types.length > common.length ? " and others" : ""}` : "Images";
  const bytes = limits.bytes ? `, up to ${megabytes(limits.bytes)}` : "";
  const pixels = limits.pixels ? ` and ${Math.floor(limits.pixels / 1e6)} megapixels` : "";
  byId("empty-limits").textContent = `${kinds}${bytes}${bytes && pixels}.`;
  if (types.length) byId("files").accept = types.join(",");
}

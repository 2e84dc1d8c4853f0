// Results of a detector: a legend, a list, and a score slider that filters what the server has sent once.

import { palette } from "./colours.js";
import { drawObjects, objectAt } from "./detection_drawing.js";
import { announce, make, percent, roving } from "./dom.js";

const LOWEST = 0.05; // score that the server is asked for, so that the slider has something to show

const whole = (share) => `${Math.round(100 * share)} %`;
const count = (number) => `${number} ${number === 1 ? "object" : "objects"}`;

export function createDetection({ model, viewer, controls, found }) {
  const colours = palette(model);
  const lowest = Math.min(LOWEST, model.min_score);
  const hidden = new Set(); // names of classes
  const shown = { boxes: true, masks: true, labels: true };
  let score = model.min_score;
  let objects = []; // of the entry that is shown
  let lit = null;
  let pinned = null;

  const total = make("output", { for: "score" });
  const slider = make("input", {
    type: "range", id: "score", min: lowest, max: 1, step: 0.01, value: score,
    input: () => {
      score = Number(slider.value);
      update();
    },
    change: () => announce(heading.textContent),
  });
  const toggles = ["boxes", "masks", "labels"].map((name) => {
    const box = make("input", { type: "checkbox", checked: true, change: () => {
      shown[name] = box.checked;
      viewer.redraw();
    } });
    return make("label", { class: "control toggle", "data-toggle": name }, box, name[0].toUpperCase() + name.slice(1));
  });
  controls.append(
    make("div", { class: "control" }, make("label", { for: "score" }, "Score"), slider, total),
    ...toggles,
  );

  const heading = make("h3", {});
  const legend = make("ul", { class: "legend", "aria-label": "Classes to show" });
  const list = make("ul", { class: "objects", "aria-label": "Objects" });
  const listed = make("div", { class: "part" }, make("h3", {}, "Objects"), list);
  const nothing = make("p", { class: "muted" });
  const refreshLegend = roving(legend, "li:not([hidden]) > .key");
  const refreshList = roving(list, "li:not([hidden]) > .object");

  const visible = () => objects.filter((object) => object.score >= score && !hidden.has(object.class));

  function light(object) {
    lit = object ?? pinned;
    for (const each of objects) each.row.classList.toggle("lit", each === lit);
    viewer.redraw();
  }

  function key(name, colour) {
    const number = make("span", { class: "count" });
    const swatch = make("span", { class: "swatch", vars: { "--colour": colour } });
    const button = make("button", { type: "button", class: "key", "aria-pressed": String(!hidden.has(name)), click: () => {
      if (!hidden.delete(name)) hidden.add(name);
      button.setAttribute("aria-pressed", String(!hidden.has(name)));
      update();
    } }, swatch, make("span", { class: "name" }, name), number);
    const item = make("li", {}, button);
    return { name, item, number };
  }

  function row(object) {
    const button = make("button", {
      type: "button", class: "object", "aria-pressed": "false",
      pointerenter: () => light(object),
      pointerleave: () => light(null),
      focus: () => light(object),
      blur: () => light(null),
      click: () => {
        pinned = pinned === object ? null : object;
        for (const each of objects) each.row.setAttribute("aria-pressed", String(each === pinned));
        light(object);
        if (pinned) viewer.reveal();
      },
    },
    make("span", { class: "swatch", vars: { "--colour": object.colour } }),
    make("span", { class: "name" }, object.class),
    make("span", { class: "share" }, percent(object.score)));
    object.row = button;
    return make("li", {}, button);
  }

  let keys = [];

  /** Follow the slider and the legend; elements stay, so that the focus does. */
  function update() {
    total.textContent = whole(score);
    slider.setAttribute("aria-valuetext", total.textContent);
    const above = objects.filter((object) => object.score >= score);
    for (const { name, item, number } of keys) {
      const several = above.filter((object) => object.class === name).length;
      item.hidden = !several;
      number.textContent = several;
    }
    const now = visible();
    for (const object of objects) object.row.parentElement.hidden = !now.includes(object);
    listed.hidden = !now.length;
    heading.textContent = `${count(now.length)} at ${whole(score)} or above`;
    nothing.hidden = above.length > 0;
    nothing.textContent = objects.length
      ? `Lower the score to see ${objects.length} more.`
      : "The network found nothing that it knows.";
    refreshLegend();
    refreshList();
    viewer.redraw();
  }

  function show(entry) {
    const { prediction } = entry.answer;
    entry.objects ??= prediction.objects.map((object, index) => {
      const colour = colours[model.classes.indexOf(object.class)] ?? "#8a8a8a";
      return { ...object, colour, result: prediction.results?.[index] };
    });
    objects = entry.objects;
    lit = pinned = null;
    list.replaceChildren(...objects.map(row));
    const names = Map.groupBy(objects, (object) => object.class);
    keys = [...names].sort((a, b) => b[1].length - a[1].length).map(([name, [first]]) => key(name, first.colour));
    legend.replaceChildren(...keys.map(({ item }) => item));
    const masks = objects.some((object) => object.result?.segmentation);
    for (const toggle of toggles) if (toggle.dataset.toggle === "masks") toggle.hidden = !masks;
    found.replaceChildren(make("div", { class: "part" }, heading, legend, nothing), listed);
    update();
    viewer.paint((context, pixel) => drawObjects(context, pixel, visible(), lit, shown), prediction.width, prediction.height);
    viewer.onpoint = (point) => light(point && objectAt(visible(), point));
  }

  return {
    query: { min_score: lowest },
    show,

    summary() {
      const groups = [...Map.groupBy(visible(), (object) => object.class)];
      const parts = groups.map(([name, members]) => `${members.length} ${name}`);
      return parts.length ? `${count(visible().length)}: ${parts.join(", ")}` : "no object";
    },

    table({ answer }) {
      const rows = answer.prediction.objects.map((one) => [one.class, one.score.toFixed(4), ...one.box.map((side) => side.toFixed(1))]);
      return { heads: ["Class", "Score", "Left", "Top", "Right", "Bottom"], rows };
    },
  };
}

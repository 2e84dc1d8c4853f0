// Results of a classifier: the most probable classes as bars.

import { make, percent } from "./dom.js";
import { GradCam } from "./gradcam.js";

export function createClassification({ model, viewer, controls, found, ask }) {
  const bars = make("ol", { class: "bars", "aria-label": "Most probable classes" });
  const hint = make("p", { class: "small muted" });
  const explained = Boolean(model.supports?.gradcam);
  const cam = explained ? new GradCam(model, viewer, controls, ask, mark) : null;
  hint.textContent = explained ? "Select a class to see where the network finds it." : "";
  controls.hidden = !explained;

  function mark() {
    for (const bar of bars.querySelectorAll("button")) {
      bar.setAttribute("aria-pressed", String(cam.on.checked && bar.dataset.name === cam.label));
    }
  }

  function bar({ class: name, probability }) {
    const parts = [
      make("span", { class: "name" }, name),
      make("span", { class: "share" }, percent(probability)),
      make("span", { class: "track" }, make("span", { vars: { "--share": probability } })),
    ];
    if (!explained) return make("div", { class: "bar" }, parts);
    const properties = { type: "button", class: "bar", "data-name": name, "aria-pressed": "false" };
    return make("button", { ...properties, click: () => toggle(name) }, parts);
  }

  /** The class that is shown already is hidden again. */
  function toggle(name) {
    if (cam.on.checked && cam.label === name) {
      cam.on.checked = false;
      cam.update();
    } else {
      cam.choose(name);
      viewer.reveal();
    }
  }

  return {
    query: {},

    show(entry) {
      const { answers, width, height } = entry.answer.prediction;
      bars.replaceChildren(...answers.map((answer) => make("li", {}, bar(answer))));
      found.replaceChildren(make("div", { class: "part" }, bars, hint));
      if (cam) cam.show(entry);
      else viewer.paint(null, width, height);
    },

    hide() {
      cam?.hide();
    },

    summary({ answer }) {
      const [first, ...others] = answer.prediction.answers.map((one) => `${one.class} ${percent(one.probability)}`);
      return others.length ? `${first}, then ${others.slice(0, 2).join(", ")}` : first;
    },

    table({ answer }) {
      const rows = answer.prediction.answers.map((one) => [one.class, one.probability.toFixed(6)]);
      return { heads: ["Class", "Probability"], rows };
    },
  };
}

// The page: images go in, wait for the server a few at a time, and their results are shown.

import { createCamera } from "./camera.js";
import { createClassification } from "./classification.js";
import { createDetection } from "./detection.js";
import { askToken } from "./dialogs.js";
import { byId } from "./dom.js";
import { drawExample } from "./example.js";
import { Gallery } from "./gallery.js";
import { describeModel } from "./header.js";
import { createIntake, MANY, notify, refusal } from "./intake.js";
import { RequestError, Server } from "./requests.js";
import { createResults } from "./results.js";
import { createSegmentation } from "./segmentation.js";
import { createStrip } from "./strip.js";
import { Viewer } from "./viewer.js";

const AT_ONCE = 4; // browsers open six connections to a server
const VIEWS = { classification: createClassification, detection: createDetection, segmentation: createSegmentation };

const server = new Server(askToken);
const gallery = new Gallery();
const viewer = new Viewer();
const results = createResults(gallery, viewer, again);
let model = null;
let view = null;
let working = 0;

/** Take files, except those that the server would refuse. */
function add(files) {
  const good = files.filter((file) => {
    const reason = refusal(file, model ?? {});
    if (reason) notify(reason);
    return !reason;
  });
  const room = MANY - gallery.entries.length;
  if (good.length > room) notify(`The page holds ${MANY} images. Remove some before you add others.`);
  gallery.add(good.slice(0, Math.max(0, room)));
  pump();
}

/** Start as many requests as may run at once. */
function pump() {
  if (!view) return;
  for (const entry of gallery.entries) {
    if (working >= AT_ONCE) return;
    if (entry.state === "waiting") work(entry);
  }
}

async function work(entry) {
  working += 1;
  gallery.update(entry, { state: "working", error: null, note: "" });
  try {
    await checkSize(entry);
    const answer = await ask(entry, view.query);
    gallery.update(entry, { state: "done", answer, note: "" });
  } catch (error) {
    if (error.name !== "AbortError") fail(entry, error);
  } finally {
    working -= 1;
    pump();
  }
}

function fail(entry, error) {
  gallery.update(entry, { state: "failed", error, note: "" });
  if (error.code === "unreachable") showBanner(error.message);
  else if (!(error instanceof RequestError)) console.error(error);
}

/** Ask the server for an entry's prediction. */
function ask(entry, query) {
  const waiting = (seconds, attempt, attempts) => {
    const note = `The server is busy. Trying again in ${Math.ceil(seconds)} s (${attempt} of ${attempts}).`;
    if (entry.state === "working") gallery.update(entry, { note });
  };
  return server.predict(entry.file, query, { waiting, signal: entry.cancel.signal });
}

/** Refuse an image with more pixels than the server takes, where the browser can count them. */
async function checkSize(entry) {
  const limit = model.limits?.pixels;
  if (!limit) return;
  const image = new Image();
  image.src = entry.url;
  const shown = await new Promise((resolve) => {
    image.onload = () => resolve(true);
    image.onerror = () => resolve(false);
  });
  const pixels = image.naturalWidth * image.naturalHeight;
  if (!shown || pixels <= limit) return;
  const [has, takes] = [pixels, limit].map((number) => (number / 1e6).toFixed(number < 1e7 ? 1 : 0));
  const message = `The image has ${has} megapixels, and the server takes up to ${takes}. Choose a smaller one.`;
  throw new RequestError(message, "too-many-pixels");
}

function again(entry) {
  gallery.update(entry, { state: "waiting", error: null });
  pump();
}

function showBanner(message) {
  byId("banner-text").textContent = `${message} See whether it runs and whether you are connected, then try again.`;
  byId("banner").hidden = false;
}

/** Read the network's description, and ask again for what could not be sent. */
async function connect() {
  try {
    const described = await server.model();
    if (!view) open(described);
    byId("banner").hidden = true;
    for (const entry of gallery.entries) if (entry.error?.code === "unreachable") again(entry);
    pump();
  } catch (error) {
    if (error.code === "unreachable") showBanner(error.message);
    else {
      byId("banner-text").textContent = error.message;
      byId("banner").hidden = false;
    }
    if (!model) byId("task").textContent = "Not connected";
  }
}

function open(described) {
  model = described;
  describeModel(model);
  view = VIEWS[model.task]({ model, viewer, ask, controls: byId("controls"), found: byId("found") });
  results.use(view);
}

createStrip(gallery);
createIntake(add);
createCamera(add);
gallery.addEventListener("list", () => {
  const none = gallery.entries.length === 0;
  const focused = byId("empty").contains(document.activeElement);
  byId("empty").hidden = !none;
  byId("work").hidden = none;
  if (focused && !none) document.querySelector(".thumb").focus();
});
for (const button of document.querySelectorAll("[data-action=example]")) {
  button.addEventListener("click", async () => add([await drawExample(model)]));
}
byId("banner-retry").addEventListener("click", connect);
window.addEventListener("online", connect);
connect();

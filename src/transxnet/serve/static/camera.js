// Photographs from a camera.

import { byId } from "./dom.js";

const PROBLEMS = {
  NotAllowedError: "The browser may not use the camera. Allow it in the browser's settings of this page.",
  NotFoundError: "No camera was found. Connect one and try again.",
  NotReadableError: "The camera is in use. Close the program that uses it and try again.",
};

/** Hide the buttons with data-action=camera while there is no camera; `add` is called with photographs. */
export async function createCamera(add) {
  const devices = navigator.mediaDevices; // absent where the page is not from this machine and not encrypted
  const buttons = document.querySelectorAll("[data-action=camera]");
  const update = async () => {
    const found = devices?.getUserMedia ? await devices.enumerateDevices().catch(() => []) : [];
    for (const button of buttons) {
      button.hidden = !found.some((device) => device.kind === "videoinput");
      delete button.dataset.unknown; // which keeps its place free until this is known
    }
  };
  for (const button of buttons) button.addEventListener("click", () => photograph(add));
  devices?.addEventListener("devicechange", update);
  await update();
}

function photograph(add) {
  const [dialog, video, problem, take, other] = ["camera-dialog", "video", "camera-problem", "camera-take", "camera-other"].map(byId);
  let stream = null;
  let facing = "environment";

  const stop = () => {
    for (const track of stream?.getTracks() ?? []) track.stop();
    video.srcObject = stream = null;
  };
  const start = async () => {
    stop();
    problem.hidden = take.disabled = true;
    try {
      const wanted = { facingMode: facing, width: { ideal: 1920 }, height: { ideal: 1440 } };
      const opened = await navigator.mediaDevices.getUserMedia({ video: wanted });
      if (!dialog.open) { // closed while the browser asked
        for (const track of opened.getTracks()) track.stop();
        return;
      }
      video.srcObject = stream = opened;
      await video.play();
      const devices = await navigator.mediaDevices.enumerateDevices();
      other.hidden = devices.filter((device) => device.kind === "videoinput").length < 2;
      take.disabled = false;
      take.focus();
    } catch (error) {
      problem.textContent = PROBLEMS[error.name] ?? `The camera cannot be used: ${error.message}`;
      problem.hidden = false;
    }
  };

  take.onclick = async () => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    canvas.getContext("2d").drawImage(video, 0, 0);
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
    const time = new Date().toTimeString().slice(0, 8).replaceAll(":", ".");
    dialog.close();
    add([new File([blob], `photograph ${time}.jpg`, { type: "image/jpeg" })]);
  };
  other.onclick = () => {
    facing = facing === "environment" ? "user" : "environment";
    start();
  };
  byId("camera-close").onclick = () => dialog.close();
  dialog.addEventListener("close", stop, { once: true });
  dialog.showModal();
  start();
}

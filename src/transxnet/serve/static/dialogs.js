// Questions in a dialog.

import { byId } from "./dom.js";

/** Ask for the server's token; resolves to it, or to null if the question is closed. */
export function askToken(wrong) {
  const dialog = byId("token-dialog");
  const field = byId("token");
  byId("token-wrong").hidden = !wrong;
  field.value = "";
  dialog.showModal();
  field.focus();
  return new Promise((resolve) => {
    let given = null;
    const submit = (event) => {
      event.preventDefault();
      given = field.value.trim() || null;
      if (given) dialog.close();
    };
    const cancel = () => dialog.close();
    const form = dialog.querySelector("form");
    const button = dialog.querySelector("[value=cancel]");
    form.addEventListener("submit", submit);
    button.addEventListener("click", cancel);
    dialog.addEventListener(
      "close",
      () => {
        form.removeEventListener("submit", submit);
        button.removeEventListener("click", cancel);
        field.value = "";
        resolve(given);
      },
      { once: true },
    );
  });
}

/** Show text that the browser could not copy, selected for the reader to copy. */
export function offerText(text) {
  const dialog = byId("copy-dialog");
  const area = byId("copy-text");
  area.value = text;
  byId("copy-close").onclick = () => dialog.close();
  dialog.showModal();
  area.focus();
  area.select();
}

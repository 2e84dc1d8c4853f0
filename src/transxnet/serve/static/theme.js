// Light or dark colours: the system's, unless the reader has chosen. Loaded before the page is painted.

const KEY = "transxnet-colours";
const NEXT = { system: "light", light: "dark", dark: "system" };
const root = document.documentElement;

/** Storage can be forbidden; the choice then lasts as long as the page. */
function stored() {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null;
  }
}

function apply(choice) {
  if (choice === "light" || choice === "dark") root.dataset.theme = choice;
  else delete root.dataset.theme;
}

apply(stored());

document.addEventListener("DOMContentLoaded", () => {
  const button = document.getElementById("theme");
  const describe = () => {
    const choice = root.dataset.theme;
    button.setAttribute("aria-label", choice ? `Colours: ${choice}` : "Colours: as the system");
    button.title = button.getAttribute("aria-label");
  };
  button.addEventListener("click", () => {
    const choice = NEXT[root.dataset.theme ?? "system"];
    apply(choice);
    try {
      localStorage.setItem(KEY, choice);
    } catch {
      // As above.
    }
    describe();
  });
  describe();
});

// Colours as the system has them, or as the visitor chose. Runs before the first
// paint, so that a dark page is never white for a moment; hence no module.
(() => {
  const ORDER = ["system", "light", "dark"];
  const WORDS = { system: "as the system", light: "light", dark: "dark" };
  const root = document.documentElement;

  const remembered = () => {
    try {
      return localStorage.getItem("theme");
    } catch {
      return null; // storage is switched off: the system decides
    }
  };
  const show = (theme) => {
    root.dataset.theme = theme;
    const button = document.getElementById("theme");
    button?.setAttribute("aria-label", `Colours: ${WORDS[theme]}`);
    button?.setAttribute("title", `Colours: ${WORDS[theme]}`);
  };

  const saved = remembered();
  let theme = ORDER.includes(saved) ? saved : "system";
  show(theme);
  document.addEventListener("DOMContentLoaded", () => {
    show(theme);
    document.getElementById("theme").addEventListener("click", () => {
      theme = ORDER[(ORDER.indexOf(theme) + 1) % ORDER.length];
      show(theme);
      try {
        localStorage.setItem("theme", theme);
      } catch {
        // It holds for this page, and is forgotten with it.
      }
    });
  });
})();

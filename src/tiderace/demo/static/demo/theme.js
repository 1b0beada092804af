// The colours of the system or those that the visitor chose. Not a module, so that it runs
// before the first paint and a dark page is never white.
(() => {
  const ORDER = ["system", "light", "dark"];
  const WORDS = { system: "as the system", light: "light", dark: "dark" };
  const root = document.documentElement;

  const storedTheme = () => {
    try {
      return localStorage.getItem("theme");
    } catch {
      return null; // storage is disabled
    }
  };
  const show = (theme) => {
    root.dataset.theme = theme;
    const button = document.getElementById("theme");
    button?.setAttribute("aria-label", `Colours: ${WORDS[theme]}`);
    button?.setAttribute("title", `Colours: ${WORDS[theme]}`);
  };

  const saved = storedTheme();
  let theme = ORDER.includes(saved) ? saved : "system";
  show(theme);
  document.addEventListener("DOMContentLoaded", () => {
    show(theme);
    // On a phone the list of pages scrolls.
    document.querySelector(".pages [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
    document.getElementById("theme").addEventListener("click", () => {
      theme = ORDER[(ORDER.indexOf(theme) + 1) % ORDER.length];
      show(theme);
      try {
        localStorage.setItem("theme", theme);
      } catch {
        // Without storage the choice applies to this page only.
      }
    });
  });
})();

/** Colors that also color-blind readers can tell apart, on light and on dark ground. */
export const PALETTE = {
  blue: "#0072B2",
  vermillion: "#D55E00",
  green: "#009E73",
  purple: "#CC79A7",
  orange: "#E69F00",
  sky: "#56B4E9",
};

/** Colors of text, ground and lines: those of JupyterLab's theme, else those of the page. */
export function readTheme(el) {
  const ground = groundOf(el);
  const isDark = luminance(ground) < 0.5;
  const style = getComputedStyle(document.body);
  return {
    isDark,
    ground,
    text: isDark ? "#e8e8e8" : "#1c1c1c",
    soft: isDark ? "#b4b4b4" : "#595959", // for what is secondary: still 4.5 : 1 on the ground
    grid: isDark ? "#4a4a4a" : "#d4d4d0",
    plain: isDark ? "#e8e8e8" : "#000000",
    font: style.getPropertyValue("--jp-ui-font-family").trim() || "system-ui, sans-serif",
    ...PALETTE,
  };
}

/**
 * The colors as `readTheme` gives them, which follow the page: the object stays the same one.
 *
 * @param el the explorer's element, whose own colors follow as well.
 * @param change called after a change.
 * @returns the theme, with stop() to be called at the end.
 */
export function watchTheme(el, change) {
  const theme = {};
  const read = () => {
    const wasDark = theme.isDark;
    Object.assign(theme, readTheme(el));
    el.style.colorScheme = theme.isDark ? "dark" : "light";
    el.style.color = theme.text;
    el.style.setProperty("--arcvq-soft", theme.soft);
    return wasDark !== theme.isDark;
  };
  read();
  const follow = () => read() && change();
  const observer = new MutationObserver(follow);
  const attributes = { attributeFilter: ["class", "style", "data-jp-theme-light", "data-theme"] };
  observer.observe(document.body, attributes);
  observer.observe(document.documentElement, attributes);
  const system = matchMedia("(prefers-color-scheme: dark)");
  system.addEventListener("change", follow);
  theme.stop = () => {
    observer.disconnect();
    system.removeEventListener("change", follow);
  };
  return theme;
}

/** The color behind an element: JupyterLab's, else of the nearest element that has one. */
function groundOf(el) {
  const lab = getComputedStyle(document.body).getPropertyValue("--jp-layout-color0").trim();
  if (lab) return lab;
  // An element may not be in the page yet
  for (let at = el.isConnected ? el : document.body; at; at = at.parentElement) {
    const color = getComputedStyle(at).backgroundColor;
    if (!/^(transparent|rgba\(.*, 0\))$/.test(color)) return color;
  }
  const schemes = getComputedStyle(document.documentElement).colorScheme;
  const isDark = schemes.includes("dark") && matchMedia("(prefers-color-scheme: dark)").matches;
  return isDark ? "#121212" : "#ffffff";
}

/** Roughly how light a CSS color is, from 0 to 1. */
function luminance(color) {
  const pen = document.createElement("canvas").getContext("2d");
  if (!pen) return 1; // no explorer can be drawn then, which mounting.js says
  pen.fillStyle = color;
  pen.fillRect(0, 0, 1, 1);
  const [red, green, blue] = pen.getImageData(0, 0, 1, 1).data;
  return (0.299 * red + 0.587 * green + 0.114 * blue) / 255;
}

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
  const style = getComputedStyle(el);
  const variable = (name, fallback) => style.getPropertyValue(name).trim() || fallback;
  const prefersDark = matchMedia("(prefers-color-scheme: dark)").matches;
  const isDark = luminance(variable("--jp-layout-color0", prefersDark ? "#111" : "#fff")) < 0.5;
  return {
    isDark,
    ground: variable("--jp-layout-color0", isDark ? "#111111" : "#ffffff"),
    text: isDark ? "#e8e8e8" : "#1c1c1c",
    soft: isDark ? "#b4b4b4" : "#595959", // for what is secondary: still 4.5 : 1 on the ground
    grid: isDark ? "#4a4a4a" : "#d4d4d0",
    plain: isDark ? "#e8e8e8" : "#000000",
    font: variable("--jp-ui-font-family", "system-ui, sans-serif"),
    ...PALETTE,
  };
}

/** Roughly how light a CSS color is, from 0 to 1. */
function luminance(color) {
  const pen = document.createElement("canvas").getContext("2d");
  pen.fillStyle = color;
  pen.fillRect(0, 0, 1, 1);
  const [red, green, blue] = pen.getImageData(0, 0, 1, 1).data;
  return (0.299 * red + 0.587 * green + 0.114 * blue) / 255;
}

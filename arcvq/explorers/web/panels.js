/** A sphere with its title and its key, two charts beside it, and words below. */
import { Chart } from "./chart.js";
import { key } from "./key.js";

export class Panels {
  /**
   * @param el where they go.
   * @param theme as `readTheme` gives it.
   * @param makeSphere called with the element of the sphere, after the title is there.
   * @param marks what the colors mean, as for `key`.
   */
  constructor(el, theme, makeSphere, marks) {
    const panels = document.createElement("div");
    panels.className = "arcvq-panels arcvq-sphere-and-chart";
    const figure = panels.appendChild(document.createElement("figure"));
    this.title = figure.appendChild(document.createElement("figcaption"));
    this.sphere = makeSphere(figure);
    key(figure, marks);
    const charts = panels.appendChild(document.createElement("div"));
    this.charts = [new Chart(charts, theme, 0.26), new Chart(charts, theme, 0.3)];
    this.summary = document.createElement("p");
    this.summary.className = "arcvq-summary";
    el.append(panels, this.summary);
  }

  /** Say what there is to see, also to a screen reader. */
  tell(title, summary) {
    this.title.textContent = title;
    this.summary.textContent = summary;
    this.sphere.describe(`${title}. ${summary}`);
  }

  destroy() {
    for (const picture of [this.sphere, ...this.charts]) picture.destroy();
  }
}

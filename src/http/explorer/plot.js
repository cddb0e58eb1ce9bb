// Small plots: how something went over time.

import { h, s } from "./dom.js";

const [WIDTH, HEIGHT] = [240, 40];

/** A plot with its name, its newest value and its range in words. `format` writes a value. */
export function plot(name, format, { kept = 150 } = {}) {
  const line = s("path", { class: "plot-line" });
  const area = s("path", { class: "plot-area" });
  const picture = s("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": name }, area, line);
  const [newest, range] = [h("span", { class: "plot-value" }, "–"), h("span", { class: "quiet" })];
  const element = h("figure", { class: "plot" }, h("figcaption", null, h("span", null, name), newest), picture, range);
  let points = [];

  const draw = () => {
    if (!points.length) return;
    const values = points.map(([, value]) => value);
    const [start, end] = [points[0][0], points.at(-1)[0]];
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const floor = low > 0 && low > high * 0.5 ? low - (high - low) * 0.1 : 0;
    const x = (time) => (end > start ? ((time - start) / (end - start)) * WIDTH : WIDTH).toFixed(1);
    const y = (value) => (HEIGHT - 2 - (high > floor ? (value - floor) / (high - floor) : 0) * (HEIGHT - 4)).toFixed(1);
    const path = points.map(([time, value]) => `${x(time)} ${y(value)}`).join("L");
    line.setAttribute("d", points.length > 1 ? `M${path}` : "");
    area.setAttribute("d", points.length > 1 ? `M${x(start)} ${HEIGHT}L${path}L${x(end)} ${HEIGHT}Z` : "");
    const span = Math.round((end - start) / 1000);
    const words = span > 7200 ? `${Math.round(span / 3600)} h` : span > 120 ? `${Math.round(span / 60)} min` : `${span} s`;
    newest.textContent = format(values.at(-1));
    range.textContent = points.length > 1 ? `${format(low)} to ${format(high)} in ${words}` : "";
    picture.setAttribute("aria-label", `${name}: now ${newest.textContent}; ${range.textContent}`);
  };
  return {
    element,
    /** Replaces all points: pairs of a time in milliseconds and a value. */
    set: (all) => ((points = all.slice(-kept)), draw()),
    /** Adds a value that holds now. */
    add: (value) => ((points = [...points, [Date.now(), value]].slice(-kept)), draw()),
  };
}

/** The same without words, for the cells of a table: `values` are equally far apart. */
export function spark(values, name) {
  const high = Math.max(...values, 1e-9);
  const path = values
    .map((value, index) => `${((index / Math.max(values.length - 1, 1)) * 80).toFixed(1)} ${(17 - (value / high) * 16).toFixed(1)}`)
    .join("L");
  return s(
    "svg",
    { class: "spark", viewBox: "0 0 80 18", preserveAspectRatio: "none", role: "img", "aria-label": name },
    s("path", { class: "plot-line", d: values.length > 1 ? `M${path}` : "" }),
  );
}

/** Tells how fast a number grows: gives the growth a second since the last call by this name. */
export function meter() {
  const seen = new Map();
  return (name, value) => {
    const now = performance.now();
    const before = seen.get(name);
    seen.set(name, { value, now });
    return before && now > before.now ? Math.max(0, (value - before.value) / (now - before.now)) * 1000 : null;
  };
}

// Elements, and how values are written. All text goes in as text: nothing that comes from a node is ever read as HTML.

const SVG = "http://www.w3.org/2000/svg";

/** Sets attributes, listeners (`onclick`) and properties (`.value`), and appends children. Null and false are left out. */
function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.startsWith(".")) element[name.slice(1)] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** An element of HTML. */
export const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);

/** An element of SVG. */
export const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

/** A place of this page: each part of its path is one segment, whatever letters it has. */
export const at = (...parts) => `#/${parts.map(encodeURIComponent).join("/")}`;

export const link = (text, ...parts) => h("a", { href: at(...parts) }, text);

const digits = new Intl.NumberFormat("en-US");
const short = new Intl.NumberFormat("en-US", { maximumSignificantDigits: 3 });

/** `1,234,567`. */
export const count = (number) => (typeof number === "number" ? digits.format(number) : "–");

/** `1 quant`, `2 quants`. */
export const plural = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;

/** A number with a unit of a thousand: `12.3 k`. */
export function brief(number) {
  for (const [unit, size] of [
    ["G", 1e9],
    ["M", 1e6],
    ["k", 1e3],
  ])
    if (number >= size) return `${short.format(number / size)} ${unit}`;
  return short.format(number);
}

/** Bytes with a binary unit: `1.5 MiB`. */
export function bytes(number) {
  if (typeof number !== "number") return "–";
  for (const [unit, size] of [
    ["TiB", 2 ** 40],
    ["GiB", 2 ** 30],
    ["MiB", 2 ** 20],
    ["KiB", 2 ** 10],
  ])
    if (number >= size) return `${short.format(number / size)} ${unit}`;
  return `${short.format(number)} B`;
}

/** A hash in the room of a line, whole for those who point at it. */
export function hash(text, ...parts) {
  if (typeof text !== "string") return "–";
  const shown = text.length > 20 ? `${text.slice(0, 8)}…${text.slice(-6)}` : text;
  const attributes = { class: "hash", title: text };
  return parts.length ? h("a", { ...attributes, href: at(...parts) }, shown) : h("code", attributes, shown);
}

/** A long text that breaks anywhere. */
export const whole = (text) => h("code", { class: "wrap" }, text);

/** A time of a chain, to the second, whole for those who point at it. */
export function time(text) {
  if (typeof text !== "string") return "–";
  return h("time", { datetime: text, title: text }, text.slice(0, 19).replace("T", " "));
}

/** How long ago. */
export function ago(text) {
  const seconds = Math.max(0, (Date.now() - Date.parse(text)) / 1000);
  if (!Number.isFinite(seconds)) return "–";
  for (const [unit, size] of [
    ["d", 86_400],
    ["h", 3_600],
    ["min", 60],
  ])
    if (seconds >= 2 * size) return `${Math.floor(seconds / size)} ${unit} ago`;
  return seconds < 3 ? "now" : `${Math.floor(seconds)} s ago`;
}

/** A state that is told by its word, and by its colour only besides: `good`, `warn`, `bad` or nothing. */
export const badge = (text, tone = "") => h("span", { class: `badge ${tone}` }, text);

/** A table. Each column: its heading, and `number` where its cells are numbers. Rows are lists of cells. */
export function table(caption, columns, rows, empty = "None.") {
  const cell = (tag, column, child) => h(tag, { class: column.number ? "number" : null, scope: tag === "th" ? "col" : null }, child);
  const body = h("tbody", null);
  const update = (rows) => {
    const shown = rows.map((row) =>
      h(
        "tr",
        null,
        row.map((child, index) => cell("td", columns[index], child)),
      ),
    );
    // Who has reached a link by keyboard stays there when the rows are drawn anew.
    const held = body.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    body.replaceChildren(...(rows.length ? shown : [h("tr", null, h("td", { colspan: columns.length, class: "quiet" }, empty))]));
    if (held) [...body.querySelectorAll("a")].find((link) => link.getAttribute("href") === held)?.focus({ preventScroll: true });
  };
  update(rows);
  const head = h(
    "thead",
    null,
    h(
      "tr",
      null,
      columns.map((column) => cell("th", column, column.name)),
    ),
  );
  const element = h(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
    h("table", null, h("caption", { class: "hidden" }, caption), head, body),
  );
  return { element, update };
}

/** Names and values. Values that are null are left out. */
export function facts(pairs) {
  const rows = pairs.filter(([, value]) => value !== null && value !== undefined);
  return h(
    "dl",
    { class: "facts" },
    rows.map(([name, value]) => h("div", null, h("dt", null, name), h("dd", null, value))),
  );
}

/** What is true of the whole page, in a row: a word below a number. */
export function figures(list) {
  const values = list.map(([name, value]) => [h("dd", null, value), h("dt", null, name)]);
  return {
    element: h(
      "dl",
      { class: "figures" },
      values.map(([value, name]) => h("div", null, name, value)),
    ),
    set: (index, child) => values[index][0].replaceChildren(child),
  };
}

/** Tells those who cannot see it what has happened. */
export const say = (text) => document.getElementById("said").replaceChildren(text);

/** A button that copies a text. */
export function copy(text, label = "Copy") {
  const button = h(
    "button",
    {
      type: "button",
      class: "small",
      onclick: async () => {
        await navigator.clipboard.writeText(text()).then(
          () => say("Copied"),
          () => say("The browser does not allow to copy"),
        );
        button.textContent = "Copied";
        setTimeout(() => (button.textContent = label), 1500);
      },
    },
    label,
  );
  return button;
}

/** The beginning of a transaction's data, in a line. */
export function preview({ data, erased, kind }) {
  if (erased) return h("span", { class: "quiet" }, "erased");
  const text = JSON.stringify(data) ?? "";
  return [kind && badge(kind), kind && " ", h("code", { class: "preview" }, text.length > 160 ? `${text.slice(0, 160)}…` : text)];
}

const TOKEN = /"(?:[^"\\]|\\.)*"(\s*:)?|-?\d[\d.eE+-]*|true|false|null/g;
const COLOURED = 60_000;
const PART = 100_000;

/** JSON, indented and coloured; long texts in parts, so that eight megabytes are as quick as eight bytes. */
export function json(value) {
  const text = JSON.stringify(value, null, 2) ?? "";
  const pre = h("pre", { class: "json", tabindex: 0 });
  let shown = 0;
  const more = h("button", { type: "button", class: "small", onclick: () => next() });
  const next = () => {
    const part = text.slice(shown, shown + PART);
    pre.append(...(shown < COLOURED ? coloured(part.slice(0, COLOURED)) : []), shown < COLOURED ? part.slice(COLOURED) : part);
    shown += part.length;
    more.hidden = shown >= text.length;
    more.textContent = `Show more: ${count(shown)} of ${count(text.length)} characters are shown`;
  };
  next();
  return h(
    "div",
    null,
    pre,
    h(
      "p",
      { class: "buttons" },
      more,
      copy(() => text, "Copy the JSON"),
    ),
  );
}

function coloured(text) {
  const nodes = [];
  let end = 0;
  for (const match of text.matchAll(TOKEN)) {
    const [token, colon] = match;
    nodes.push(text.slice(end, match.index));
    const kind = colon ? "name" : token[0] === '"' ? "string" : "other";
    nodes.push(h("span", { class: `json-${kind}` }, token));
    end = match.index + token.length;
  }
  return [...nodes, text.slice(end)];
}

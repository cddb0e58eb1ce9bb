// The guide, read here: the Markdown that its chapters are written in, as elements.

import { get, getText } from "./api.js";
import { at, h, link } from "./dom.js";

export async function contents({ signal }) {
  const chapters = await get("guide", signal);
  return h(
    "div",
    { class: "guide" },
    h("h1", null, "Guide"),
    h(
      "ul",
      null,
      chapters.map(({ topic, title }) => h("li", null, link(title, "guide", topic))),
    ),
    h("p", null, h("a", { href: "openapi.json" }, "openapi.json"), " describes the interface as OpenAPI 3.1."),
  );
}

export async function chapter({ signal }, topic) {
  const [chapters, text] = await Promise.all([get("guide", signal), getText(`guide/${encodeURIComponent(topic)}`, "text/markdown", signal)]);
  const topics = chapters.map(({ topic }) => topic);
  const list = chapters.map(({ topic: other, title }) =>
    h("li", null, h("a", { href: at("guide", other), "aria-current": other === topic ? "page" : null }, title)),
  );
  return h("div", { class: "guide" }, h("nav", { "aria-label": "Chapters" }, h("ul", null, list)), h("article", null, markdown(text, topics)));
}

/** Blocks: headings, fences, tables, lists, quotes and paragraphs. */
export function markdown(text, topics = []) {
  const lines = text.split("\n").filter((line) => !/^\[[^\]]+\]: \S+$/.test(line));
  const blocks = [];
  const words = (text) => inline(text, topics);
  let line = 0;
  const take = (holds) => {
    const start = line;
    while (line < lines.length && holds(lines[line])) line += 1;
    return lines.slice(start, line);
  };
  while (line < lines.length) {
    const [, marks, heading] = lines[line].match(/^(#{1,6}) (.*)/) ?? [];
    if (lines[line].trim() === "") line += 1;
    else if (heading) {
      blocks.push(h(`h${marks.length}`, null, words(heading)));
      line += 1;
    } else if (lines[line].startsWith("```")) {
      line += 1;
      blocks.push(h("pre", { tabindex: 0 }, take((text) => !text.startsWith("```")).join("\n")));
      line += 1;
    } else if (lines[line].startsWith("|")) {
      const [head, , ...rows] = take((text) => text.startsWith("|")).map(cells);
      const row = (tag, cells) =>
        h(
          "tr",
          null,
          cells.map((cell) => h(tag, { scope: tag === "th" ? "col" : null }, words(cell))),
        );
      blocks.push(
        h(
          "div",
          { class: "scroll", tabindex: 0 },
          h(
            "table",
            null,
            h("thead", null, row("th", head)),
            h(
              "tbody",
              null,
              rows.map((cells) => row("td", cells)),
            ),
          ),
        ),
      );
    } else if (/^(- |\d+\. )/.test(lines[line])) {
      const tag = lines[line].startsWith("-") ? "ul" : "ol";
      const text = take((text) => /^(- |\d+\. |  )/.test(text)).join("\n");
      blocks.push(
        h(
          tag,
          null,
          text
            .split(/^(?:- |\d+\. )/m)
            .slice(1)
            .map((item) => h("li", null, words(item.replace(/\s+/g, " ").trim()))),
        ),
      );
    } else {
      blocks.push(h("p", null, words(take((text) => text.trim() !== "" && !/^(```|\||#|- )/.test(text)).join(" "))));
    }
  }
  return blocks;
}

/** The cells of a row; a bar within code or behind a backslash belongs to its cell. */
const cells = (row) =>
  row
    .slice(1, row.lastIndexOf("|"))
    .split(/(?<!\\)\|(?=(?:[^`]*`[^`]*`)*[^`]*$)/)
    .map((cell) => cell.trim().replaceAll("\\|", "|"));

const INLINE = /`([^`]+)`|\*\*(.+?)\*\*|\*([^*]+)\*|\[([^\]]+)\]\((https?:[^)]+)\)|<(https?:[^>]+)>|\[([a-z]+)\]/g;

function inline(text, topics) {
  const nodes = [];
  let end = 0;
  for (const match of text.matchAll(INLINE)) {
    const [all, code, bold, italic, label, address, bare, topic] = match;
    nodes.push(text.slice(end, match.index));
    end = match.index + all.length;
    if (code) nodes.push(h("code", null, code));
    else if (bold) nodes.push(h("strong", null, inline(bold, topics)));
    else if (italic) nodes.push(h("em", null, italic));
    else if (label) nodes.push(h("a", { href: address, rel: "noreferrer" }, inline(label, topics)));
    else if (bare) nodes.push(h("a", { href: bare, rel: "noreferrer" }, bare));
    else nodes.push(topics.includes(topic) ? link(topic, "guide", topic) : all);
  }
  return [...nodes, text.slice(end)];
}

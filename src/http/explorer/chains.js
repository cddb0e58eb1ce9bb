// All chains, a page at a time: heads, sizes and growth.

import { chainPath, get } from "./api.js";
import { badge, brief, bytes, count, figures, h, hash, link, table } from "./dom.js";
import { meter, plot, spark } from "./plot.js";

const PAGE = 50;
const COLUMNS = [
  { name: "Chain" },
  { name: "State" },
  { name: "Newest quant" },
  { name: "Quants", number: true },
  { name: "Transactions", number: true },
  { name: "Pool", number: true },
  { name: "Size", number: true },
  { name: "A second", number: true },
];

/** What a chain's figures say of its state, as badges. */
export function states({ stats, damage, rules }) {
  const found = [];
  if (damage ?? stats?.damage) found.push(badge("damaged", "bad"));
  if (stats?.rollback) found.push(badge("rolled back", "bad"));
  if (stats?.frozen) found.push(badge("frozen", "warn"));
  if (stats?.mirror) found.push(badge(`mirror: ${stats.mirror.state}`, stats.mirror.state === "following" ? "" : "warn"));
  if (rules?.fork_of) found.push(badge("fork"));
  return found.length ? found : [badge("good", "good")];
}

export async function chains({ query, every, go }) {
  // The names behind one, page by page; or those from one on, which need not exist.
  const name = query.get("from") ?? "";
  const after = query.get("after") ?? name;
  const history = new Map();
  const grown = meter();
  const list = table("Chains", COLUMNS, [], "No chain has a name behind this one.");
  const total = figures([
    ["chains on this node", "–"],
    ["transactions, of those below", "–"],
    ["bytes, of those below", "–"],
  ]);
  const [rate, volume] = [plot("Transactions a second, of those below", brief), plot("Bytes a second, of those below", bytes)];
  const next = h("p", { class: "buttons" });

  await every(2000, async () => {
    const path = `chains?limit=${PAGE}${after && `&after=${encodeURIComponent(after)}`}`;
    const own = name ? get(chainPath(name)).catch(() => null) : null;
    const [page, index, named] = await Promise.all([get(path), get("./"), own]);
    const shown = named ? [named, ...page] : page;
    list.update(shown.map((chain) => row(chain, history, grown)));
    const sum = (name) => shown.reduce((sum, { stats }) => sum + (stats?.[name] ?? 0), 0);
    [count(index.chains), count(sum("size")), bytes(sum("bytes"))].forEach((value, index) => total.set(index, value));
    const [transactions, written] = [grown("size of all", sum("size")), grown("bytes of all", sum("bytes"))];
    if (transactions !== null) rate.add(transactions);
    if (written !== null) volume.add(written);
    next.replaceChildren(
      ...(after ? [link("First page")] : []),
      ...(page.length === PAGE ? [h("a", { href: `#/?after=${encodeURIComponent(page.at(-1).name)}` }, "Next page")] : []),
    );
  });

  const from = h("input", { id: "from-name", autocomplete: "off", spellcheck: "false", ".value": name });
  const jump = h(
    "form",
    {
      class: "inline",
      onsubmit: (event) => (event.preventDefault(), (location.hash = from.value ? `#/?from=${encodeURIComponent(from.value.trim())}` : "#/")),
    },
    h("label", { for: "from-name" }, "Names from"),
    from,
    h("button", null, "Show"),
  );
  return h(
    "div",
    null,
    h("div", { class: "heading" }, h("h1", null, "Chains"), h("button", { class: "primary", onclick: () => go("new") }, "New chain")),
    total.element,
    h("div", { class: "plots" }, rate.element, volume.element),
    jump,
    list.element,
    next,
  );
}

function row(chain, history, grown) {
  const { name, stats } = chain;
  if (!stats) return [link(name, "chains", name), states(chain), h("span", { class: "quiet" }, chain.damage), "–", "–", "–", "–", "–"];
  const rates = history.get(name) ?? [];
  const rate = grown(name, stats.size);
  if (rate !== null) history.set(name, [...rates, rate].slice(-60));
  const now = rate === null ? "–" : brief(rate);
  return [
    link(name, "chains", name),
    states(chain),
    hash(stats.hash, "chains", name, "quants", String(stats.length - 1)),
    count(stats.length),
    count(stats.size),
    count(stats.pooled),
    bytes(stats.bytes),
    [spark(history.get(name) ?? [], `${name}: growth`), now],
  ];
}

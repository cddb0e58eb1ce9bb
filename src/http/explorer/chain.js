// One chain: live, its transactions, quants, pool and forks, and what can be done with it.

import { chainPath, follow, get, pageSize } from "./api.js";
import { at, ago, badge, brief, bytes, copy, count, facts, figures, h, hash, json, link, plural, preview, s, table, time, whole } from "./dom.js";
import { states } from "./chains.js";
import { eraseForm, forkForm, injectForm, leapForm } from "./forms.js";
import { meter, plot } from "./plot.js";

const PARTS = { live: "Live", transactions: "Transactions", quants: "Quants", pool: "Pool", forks: "Forks", write: "Write" };
const SHOWN = 15;

export async function chain(context, name, part = "live") {
  const view = await get(chainPath(name), context.signal);
  const content = { live, transactions: (...all) => transactions(...all, false), quants, pool: (...all) => transactions(...all, true), forks, write }[
    part
  ];
  if (!content) throw new Error(`there is no page ${part} of a chain`);
  const tab = (key) =>
    h("a", { href: key === "live" ? at("chains", name) : at("chains", name, key), "aria-current": key === part ? "page" : null }, PARTS[key]);
  return h(
    "div",
    null,
    h("div", { class: "heading" }, h("h1", null, view.name), states(view)),
    h(
      "p",
      { class: "quiet id" },
      "id ",
      whole(view.id),
      " ",
      copy(() => view.id, "Copy the id"),
    ),
    danger(view.stats),
    h("nav", { class: "tabs", "aria-label": "Chain" }, Object.keys(PARTS).map(tab)),
    await content(context, view),
  );
}

/** What is wrong with a chain, in the node's own words. */
function danger({ damage, rollback, mirror, frozen }) {
  return [
    damage && h("p", { class: "alert bad" }, h("strong", null, "Damaged: "), damage),
    rollback && h("p", { class: "alert bad" }, h("strong", null, "Takes no writes: "), rollback),
    frozen && h("p", { class: "alert warn" }, h("strong", null, "Frozen: "), typeof frozen === "string" ? frozen : JSON.stringify(frozen)),
    mirror &&
      h("p", { class: "alert" }, `A mirror of ${mirror.from}: ${mirror.state}, ${plural(mirror.lag, "transaction")} behind. It takes no writes.`),
  ];
}

const TRANSACTIONS = [{ name: "Index", number: true }, { name: "Data" }, { name: "Id" }, { name: "Accepted (UTC)" }];

const transactionRow = (name) => (transaction) => [
  link(count(transaction.index), "chains", name, "transactions", String(transaction.index)),
  preview(transaction),
  transaction.id ? h("code", { class: "preview" }, transaction.id) : "",
  time(transaction.timestamp),
];

const QUANTS = [{ name: "Quant", number: true }, { name: "Hash" }, { name: "Chain's size", number: true }, { name: "Made (UTC)" }];

const quantRow = (name) => (quant) => [
  link(count(quant.index), "chains", name, "quants", String(quant.index)),
  hash(quant.hash, "chains", name, "quants", String(quant.index)),
  count(quant.size),
  time(quant.timestamp),
];

/** The last ones of a list of frames and of what was there before, newest first, each once. */
function newest(before, frames) {
  const parsed = frames
    .slice(-SHOWN)
    .reverse()
    .map(({ data }) => JSON.parse(data));
  return [...parsed.filter(({ index }) => !before.length || index > before[0].index), ...before].slice(0, SHOWN);
}

async function live({ signal, every }, view) {
  const { name } = view;
  const path = (rest) => chainPath(name, rest);
  const { stats } = view;
  const size = pageSize(stats);
  const start = (length, limit) => Math.max(0, length - limit);
  let [records, quants] = await Promise.all([
    get(path(`transactions?from=${start(stats.size, Math.min(size, SHOWN))}&limit=${SHOWN}`), signal),
    get(path(`chain?from=${start(stats.length, 200)}&limit=201&transactions=false`), signal),
  ]);
  const all = figures([
    ["transactions", ""],
    ["pooled", ""],
    ["quants", ""],
    ["bytes", ""],
    ["newest quant", ""],
  ]);
  const [sizes, rate, pool] = [
    plot("Transactions, by the last quants", count, { kept: 400 }),
    plot("Transactions a second", brief),
    plot("Pool", count),
  ];
  sizes.set(quants.map(({ timestamp, size }) => [Date.parse(timestamp), size]));
  const shown = { records: records.reverse().slice(0, SHOWN), quants: quants.reverse().slice(0, SHOWN) };
  const tables = { records: table("Newest transactions", TRANSACTIONS, []), quants: table("Newest quants", QUANTS, []) };
  const scrub = h("div", null);
  const grown = meter();

  const draw = () => {
    tables.records.update(shown.records.map(transactionRow(name)));
    tables.quants.update(shown.quants.map(quantRow(name)));
  };
  draw();
  every(2000, async () => {
    const stats = await get(path("stats"), signal);
    [
      count(stats.size),
      count(stats.pooled),
      count(stats.length),
      bytes(stats.bytes),
      hash(stats.hash, "chains", name, "quants", String(stats.length - 1)),
    ].forEach((value, index) => all.set(index, value));
    const speed = grown("size", stats.size);
    if (speed !== null) rate.add(speed);
    pool.add(stats.pooled);
    scrub.replaceChildren(
      facts([
        [
          "Read again and compared",
          stats.scrubbed
            ? h("span", { title: stats.scrubbed.timestamp }, `${ago(stats.scrubbed.timestamp)}, ${plural(stats.scrubbed.size, "transaction")}`)
            : "not since the start",
        ],
        ["Healed", stats.healed ? plural(stats.healed, "run") : null],
      ]),
    );
  });

  // The events, drawn at most four times a second, whatever comes. What came too fast to be shown is counted.
  const state = h("span", { role: "status" }, badge("connecting"));
  const passed = h("span", { class: "quiet" });
  let [arrived, missed, paused, waiting] = [{ transaction: [], quant: [] }, 0, false, null];
  const flush = () => {
    waiting = null;
    if (paused) return;
    shown.records = newest(shown.records, arrived.transaction);
    shown.quants = newest(shown.quants, arrived.quant);
    quants = [...shown.quants.filter(({ index }) => index > quants[0].index), ...quants].slice(0, 400);
    sizes.set(quants.toReversed().map(({ timestamp, size }) => [Date.parse(timestamp), size]));
    arrived = { transaction: [], quant: [] };
    passed.textContent = missed ? `${count(missed)} came faster than they are shown` : "";
    draw();
  };
  follow(
    name,
    shown.records[0].index + 1,
    signal,
    (frames) => {
      for (const frame of frames) {
        if (frame.event === "replaced") return location.reload();
        const list = arrived[frame.event];
        if (!list) continue;
        list.push(frame);
        if (list.length > SHOWN) ((missed += 1), list.shift());
      }
      waiting ??= setTimeout(flush, 250);
    },
    (word, detail) => state.replaceChildren(badge(word, word === "live" ? "good" : "warn"), detail ? ` ${detail}` : ""),
  );
  const pause = h(
    "button",
    {
      class: "small",
      "aria-pressed": "false",
      onclick: () => {
        paused = !paused;
        pause.setAttribute("aria-pressed", String(paused));
        pause.textContent = paused ? "Go on" : "Pause";
        flush();
      },
    },
    "Pause",
  );

  const kept = h("div", null);
  every(3000, async () => kept.replaceChildren(replicas((await get(path(""), signal)).replicas)));
  return h(
    "div",
    { class: "columns" },
    h(
      "div",
      null,
      all.element,
      h("div", { class: "heading" }, h("h2", null, "Newest transactions"), state, passed, pause),
      tables.records.element,
      h("h2", null, "Newest quants"),
      tables.quants.element,
    ),
    h(
      "div",
      null,
      h("div", { class: "plots" }, sizes.element, rate.element, pool.element),
      h("h2", null, "Rules"),
      rules(view),
      h("h2", null, "Replicas"),
      kept,
      h("h2", null, "Integrity"),
      scrub,
    ),
  );
}

/** In a cluster the nodes that keep a chain, and else on how many it is kept. */
function replicas(kept) {
  if (!Array.isArray(kept)) return h("p", null, plural(kept, "node"));
  const columns = [{ name: "Node" }, { name: "Role" }, { name: "Entries", number: true }];
  return table(
    "Replicas",
    columns,
    kept.map(({ host, role, size }) => [host, badge(role, role === "leader" ? "good" : ""), count(size)]),
  ).element;
}

function rules({ rules, leap }) {
  const { difficulty, schema, max_bytes: largest, writers, fork_of: parent, name, ...more } = rules;
  const words = [
    leap?.every_ms && `${count(leap.every_ms)} ms after a transaction`,
    leap?.transactions && `at ${plural(leap.transactions, "transaction")}`,
  ].filter(Boolean);
  return facts([
    ["Difficulty", plural(difficulty, "zero bit")],
    ["Largest data", bytes(largest)],
    ["Leaps by itself", words.join(", or ") || "no: when it is asked to"],
    ["Writers", writers ? writers.map((key) => h("div", null, whole(key))) : "everyone"],
    [
      "Fork of",
      parent
        ? [
            hash(parent.chain, "chains", parent.chain),
            ", behind quant ",
            link(count(parent.index), "chains", parent.chain, "quants", String(parent.index)),
          ]
        : null,
    ],
    ["Schema", schema === null ? "any data" : h("details", null, h("summary", null, "JSON Schema"), json(schema))],
    ...Object.entries(more).map(([name, value]) => [name, h("code", null, JSON.stringify(value))]),
  ]);
}

/** Links through a list whose indexes go from `low` up to below `high`: the newest stand on the first page. */
function pager(name, part, low, high, from, limit) {
  const to = (start, text) => h("a", { href: `${at("chains", name, part)}?from=${start}` }, text);
  const go = h("input", { id: "go", inputmode: "numeric", size: 10, autocomplete: "off" });
  const jump = (event) => {
    event.preventDefault();
    if (/^\d+$/.test(go.value)) location.hash = `${at("chains", name, part)}?from=${go.value}`;
  };
  return h(
    "div",
    { class: "pager" },
    from + limit < high && h("a", { href: at("chains", name, part) }, "Newest"),
    from + limit < high && to(from + limit, "Newer"),
    from > low && to(Math.max(low, from - limit), "Older"),
    from > low && to(low, "Oldest"),
    h("span", { class: "quiet" }, high > low ? `${count(from)} to ${count(Math.min(high, from + limit) - 1)} of ${count(high)}` : ""),
    h("form", { class: "inline", onsubmit: jump }, h("label", { for: "go" }, "Go to index"), go, h("button", { class: "small" }, "Go")),
  );
}

/** The first index of the page that the place asks for, or of the newest page. */
function first(query, low, high, limit) {
  const asked = query.get("from");
  return asked !== null && /^\d+$/.test(asked) ? Math.max(low, Math.min(Number(asked), Math.max(low, high - 1))) : Math.max(low, high - limit);
}

async function transactions({ signal, query }, { name, stats }, pooled) {
  const [low, high, limit] = [pooled ? stats.size - stats.pooled : 0, stats.size, pageSize(stats)];
  const from = first(query, low, high, limit);
  const found = await get(chainPath(name, `transactions?from=${from}&limit=${limit}`), signal);
  const rows = found.reverse().map(transactionRow(name));
  return h(
    "section",
    null,
    h("h2", { class: "hidden" }, pooled ? "Pool" : "Transactions"),
    pooled && h("p", { class: "quiet" }, `${plural(stats.pooled, "transaction")} that no quant covers yet: on disk, and their order is final.`),
    pager(name, pooled ? "pool" : "transactions", low, high, from, limit),
    table(pooled ? "Pooled transactions" : "Transactions", TRANSACTIONS, high > low ? rows : [], "The pool is empty.").element,
  );
}

async function quants({ signal, query }, { name, stats }) {
  const limit = 50;
  const from = first(query, 0, stats.length, limit);
  const found = await get(chainPath(name, `chain?from=${from}&limit=${limit}&transactions=false`), signal);
  return h(
    "section",
    null,
    h("h2", { class: "hidden" }, "Quants"),
    pager(name, "quants", 0, stats.length, from, limit),
    table("Quants", QUANTS, found.reverse().map(quantRow(name))).element,
  );
}

const FAMILY = 60;

/** The forks: the chain that all began with, and what grew out of it. Chains are looked through a thousand at a time. */
async function forks({ signal }, view) {
  let eldest = view;
  for (let above = 0; eldest.rules.fork_of && above < FAMILY; above += 1) {
    const parent = await get(chainPath(eldest.rules.fork_of.chain), signal).catch(() => null);
    if (!parent) break;
    eldest = parent;
  }
  const family = new Map([[eldest.id, eldest]]);
  const place = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Tree of forks" });
  const told = h("p", { class: "quiet", role: "status" });
  const more = h("button", { class: "small", onclick: () => look() }, "Look through more chains");
  // Forks are often named after their parent, so those names are looked through first; then all from the first one on.
  let [after, near] = [eldest.name, true];
  const others = new Map();
  const look = async () => {
    const page = await get(`chains?limit=1000${after && `&after=${encodeURIComponent(after)}`}`, signal);
    page.forEach((chain) => others.set(chain.name, chain));
    for (let grew = true; grew;) {
      grew = false;
      for (const chain of others.values())
        if (family.has(chain.rules?.fork_of?.chain) && !family.has(chain.id)) (family.set(chain.id, chain), (grew = true));
    }
    more.hidden = !near && page.length < 1000;
    after = near ? "" : (page.at(-1)?.name ?? after);
    near = false;
    const shown = tree([...family.values()], eldest, view.id);
    told.textContent = `${plural(family.size, "chain")} of this family, among ${count(others.size)} names that were looked through${family.size > FAMILY ? `; ${FAMILY} are drawn` : ""}.`;
    place.replaceChildren(shown);
  };
  await look();
  await look();
  return h("section", null, h("h2", null, "Tree of forks"), told, place, h("p", { class: "buttons" }, more));
}

/** One line for each chain, from the quant that it left its parent behind to its newest one. */
function tree(family, eldest, current) {
  const order = [];
  const visit = (chain, depth) => {
    if (order.length >= FAMILY) return;
    order.push({ chain, depth });
    const children = family.filter(({ rules }) => rules.fork_of?.chain === chain.id).sort((a, b) => b.rules.fork_of.index - a.rules.fork_of.index);
    children.forEach((child) => visit(child, depth + 1));
  };
  visit(eldest, 0);
  const [left, width, step] = [12, innerWidth < 640 ? 110 : 420, 30];
  const longest = Math.max(...order.map(({ chain }) => chain.stats?.length ?? 1)) - 1;
  const x = (quant) => left + (longest > 0 ? (quant / longest) * width : 0);
  const rows = new Map(order.map(({ chain }, row) => [chain.id, 20 + row * step]));
  const lines = order.map(({ chain }) => {
    const [y, length] = [rows.get(chain.id), chain.stats?.length ?? 1];
    const parent = chain.rules.fork_of;
    const from = parent && rows.has(parent.chain) ? x(parent.index) : x(0);
    const end = Math.max(x(length - 1), from + 10);
    const path = parent && rows.has(parent.chain) ? `M${from} ${rows.get(parent.chain)}V${y - 8}q0 8 8 8H${end}` : `M${x(0)} ${y}H${end}`;
    return [
      s("path", { d: path, class: chain.id === current ? "branch current" : "branch" }),
      parent && rows.has(parent.chain) && s("circle", { cx: from, cy: rows.get(parent.chain), r: 3.5, class: "knot" }),
      s("circle", { cx: end, cy: y, r: 4.5, class: chain.id === current ? "head current" : "head" }),
      s(
        "a",
        { href: at("chains", chain.name) },
        s(
          "text",
          { x: end + 12, y: y + 4, class: chain.id === current ? "current" : null },
          chain.name,
          s("tspan", { class: "quiet" }, `  quant ${count(length - 1)}${parent ? `, left at ${count(parent.index)}` : ""}`),
        ),
      ),
    ];
  });
  const height = 20 + order.length * step;
  return s(
    "svg",
    {
      width: width + 400,
      height,
      viewBox: `0 0 ${width + 400} ${height}`,
      class: "tree",
      role: "group",
      "aria-label": `${plural(order.length, "chain")} as a tree`,
    },
    lines,
  );
}

async function write(context, view) {
  return h(
    "div",
    { class: "columns even" },
    h("div", null, injectForm(view), leapForm(view)),
    h("div", null, forkForm(view, context), eraseForm(view)),
  );
}

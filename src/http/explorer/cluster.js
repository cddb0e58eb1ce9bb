// The cluster, alive: nodes, groups, leaders and lag; and who is beside it: nodes that are known, mirrors, witnesses, imports.

import { get } from "./api.js";
import { ago, badge, brief, bytes, count, facts, h, hash, plural, s, table, whole } from "./dom.js";
import { meter, plot } from "./plot.js";

const TONES = { live: "good", suspect: "warn", leaving: "warn", down: "bad" };
const short = (id) => String(id).slice(0, 8);

export async function cluster({ every, signal }) {
  const status = await get("cluster", signal);
  const nodes = table(
    "Nodes",
    [
      { name: "Node" },
      { name: "State" },
      { name: "Leads", number: true },
      { name: "Keeps", number: true },
      { name: "Size", number: true },
      { name: "Version" },
      { name: "Seen", number: true },
    ],
    [],
  );
  const groups = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Groups and where they are kept" });
  const picture = h("div", null);
  const [rate, volume, lag] = [
    plot("Entries agreed a second, of all groups", brief),
    plot("Bytes a second, of all nodes", bytes),
    plot("Largest lag of a replica, entries", count),
  ];
  const busy = h("div", null);
  const grown = meter();
  const beside = h("div", null);

  await every(2000, async () => {
    const status = await get("cluster", signal);
    nodes.update(
      status.nodes.map(({ id, host, state, leads, keeps, bytes: size, version, last_seen: seen }) => [
        h("span", { title: id }, host),
        badge(state, TONES[state] ?? ""),
        count(leads),
        count(keeps),
        bytes(size),
        version,
        ago(seen),
      ]),
    );
    picture.replaceChildren(ring(status));
    groups.replaceChildren(matrix(status));
    busy.replaceChildren(
      ...(status.busy.length
        ? [
            h("h2", null, "What moves"),
            h(
              "ul",
              null,
              status.busy.map((text) => h("li", null, typeof text === "string" ? text : JSON.stringify(text))),
            ),
          ]
        : []),
    );
    const agreed = grown(
      "agreed",
      status.groups.reduce((sum, { replicas }) => sum + Math.max(0, ...replicas.map(({ size }) => size)), 0),
    );
    const written = grown(
      "bytes",
      status.nodes.reduce((sum, node) => sum + node.bytes, 0),
    );
    if (agreed !== null) rate.add(agreed);
    if (written !== null) volume.add(written);
    lag.add(Math.max(0, ...status.groups.flatMap(({ replicas }) => replicas.map(({ lag }) => lag ?? 0))));
  });
  await every(5000, async () => beside.replaceChildren(await neighbours(signal)));
  return h(
    "div",
    null,
    h("h1", null, "Cluster"),
    h("p", { class: "quiet id" }, "id ", whole(status.id)),
    h("div", { class: "plots" }, rate.element, volume.element, lag.element),
    h(
      "div",
      { class: "columns" },
      h("div", null, h("h2", null, "Nodes"), nodes.element, h("h2", null, "Groups"), groups, busy),
      h("div", null, h("h2", null, "Picture"), picture),
    ),
    h("p", { class: "quiet" }, "Key of its checkpoints, as this node says: "),
    h("pre", { tabindex: 0 }, status.key),
    beside,
  );
}

/** The nodes in a ring, a line from each leader to those that follow it: solid where they have all, dashed where they lag. */
function ring({ nodes, groups }) {
  const [middle, radius] = [150, 105];
  const spot = new Map(
    nodes.map(({ id }, index) => {
      const angle = (index / nodes.length) * 2 * Math.PI - Math.PI / 2;
      return [id, nodes.length === 1 ? [middle, middle] : [middle + radius * Math.cos(angle), middle + radius * Math.sin(angle)]];
    }),
  );
  const pairs = new Map();
  for (const { leader, replicas } of groups)
    for (const { node, lag } of replicas)
      if (leader && node !== leader && spot.has(leader) && spot.has(node)) {
        const pair = [leader, node].sort().join();
        pairs.set(pair, { ends: [leader, node], lag: Math.max(pairs.get(pair)?.lag ?? 0, lag ?? 0) });
      }
  const lines = [...pairs.values()].map(({ ends: [a, b], lag }) =>
    s("line", { x1: spot.get(a)[0], y1: spot.get(a)[1], x2: spot.get(b)[0], y2: spot.get(b)[1], class: lag ? "bond lags" : "bond" }),
  );
  const circles = nodes.map(({ id, host, state, leads }) => {
    const [x, y] = spot.get(id);
    return s(
      "g",
      null,
      s("circle", { cx: x, cy: y, r: 24, class: `node ${TONES[state] ?? ""}` }),
      s("text", { x, y: y + 4, "text-anchor": "middle", class: "leads" }, String(leads)),
      s("text", { x, y: y + 40, "text-anchor": "middle" }, host.replace(/^localhost/, "")),
    );
  });
  const told = nodes.map(({ host, state, leads }) => `${host} is ${state} and leads ${plural(leads, "group")}`).join("; ");
  return h(
    "figure",
    { class: "ring" },
    s("svg", { viewBox: "0 0 300 300", role: "img", "aria-label": told }, lines, circles),
    h("figcaption", { class: "quiet" }, "In each node: how many groups it leads. A line is dashed while somebody lags."),
  );
}

const LIMIT = 200;

/** Groups down, nodes across: who leads, who follows, and how far behind. */
function matrix({ nodes, groups }) {
  const sorted = [...groups].sort((a, b) => b.chains - a.chains);
  const cell = (replica) => {
    if (!replica) return h("td", null, h("span", { class: "hidden" }, "not kept"));
    const sign = replica.role === "leader" ? "●" : replica.role === "follower" ? "○" : "◌";
    return h(
      "td",
      { class: replica.lag ? "lags" : null },
      h("span", { "aria-hidden": "true" }, `${sign} `),
      h("span", { class: "role" }, replica.role),
      replica.lag ? ` −${count(replica.lag)}` : "",
    );
  };
  const rows = sorted.slice(0, LIMIT).map(({ id, chains, term, replicas, leader }) =>
    h(
      "tr",
      null,
      h("th", { scope: "row" }, h("code", { title: id }, short(id))),
      h("td", { class: "number" }, count(chains)),
      h("td", { class: "number" }, count(term)),
      h("td", { class: "number" }, count(Math.max(0, ...replicas.map(({ size }) => size)))),
      nodes.map(({ id }) => cell(replicas.find(({ node }) => node === id))),
      h("td", null, leader ? "" : badge("no leader", "bad")),
    ),
  );
  const heads = ["Group", "Chains", "Term", "Entries", ...nodes.map(({ host }) => host)].map((name, index) =>
    h("th", { scope: "col", class: index > 0 && index < 4 ? "number" : null }, name),
  );
  return h(
    "table",
    null,
    h("caption", { class: "hidden" }, "Groups and where they are kept"),
    h("thead", null, h("tr", null, heads, h("td", null))),
    h("tbody", null, rows),
    groups.length > LIMIT &&
      h(
        "tfoot",
        null,
        h("tr", null, h("td", { colspan: nodes.length + 5, class: "quiet" }, `${count(groups.length - LIMIT)} more, with fewer chains.`)),
      ),
  );
}

async function neighbours(signal) {
  const list = (path) => get(path, signal).catch(() => null);
  const [known, mirrors, witness, imports] = await Promise.all([list("discover"), list("mirrors"), list("witness?limit=100"), list("import")]);
  const part = (title, empty, content) => h("section", null, h("h2", null, title), content ?? h("p", { class: "quiet" }, empty));
  return h(
    "div",
    { class: "columns even" },
    h(
      "div",
      null,
      part(
        "Mirrors",
        "This node follows no chain of others.",
        mirrors?.length
          ? table(
              "Mirrors",
              [{ name: "Chain" }, { name: "From" }, { name: "State" }, { name: "Behind", number: true }, { name: "Checked" }],
              mirrors.map(({ chain, from, state, lag, checked, evidence, error }) => [
                chain,
                h("span", { class: "wrap" }, from),
                badge(evidence?.length ? "contradiction" : state, evidence?.length ? "bad" : error ? "warn" : "good"),
                count(lag),
                checked ? ago(checked) : "–",
              ]),
            ).element
          : null,
      ),
      part(
        "Nodes that it knows",
        "It knows no other node.",
        known?.length
          ? table(
              "Known nodes",
              [{ name: "Node" }, { name: "Version" }, { name: "Latency", number: true }, { name: "Seen" }],
              known.map(({ host, id, version, latency_ms: latency, last_seen: seen }) => [
                h("span", { title: id }, host),
                version,
                `${brief(latency)} ms`,
                ago(seen),
              ]),
            ).element
          : null,
      ),
    ),
    h(
      "div",
      null,
      part(
        "Witness",
        "This node cosigns for nobody.",
        witness?.key
          ? [
              h("pre", { tabindex: 0 }, witness.key),
              table(
                "Cosigned logs",
                [{ name: "Log" }, { name: "Size", number: true }, { name: "Cosigned" }, { name: "Evidence" }],
                witness.logs.map(({ origin, size, cosigned, evidence }) => [
                  h("span", { class: "wrap" }, hash(origin.replace(/^qbc\//, ""))),
                  count(size),
                  ago(cosigned),
                  evidence.length ? badge(plural(evidence.length, "contradiction"), "bad") : "none",
                ]),
              ).element,
            ]
          : null,
      ),
      part(
        "Unfinished imports",
        "There are none.",
        imports?.length
          ? imports.map((one) =>
              facts(
                Object.entries(one).map(([name, value]) => [
                  name,
                  typeof value === "string" || typeof value === "number" ? String(value) : JSON.stringify(value),
                ]),
              ),
            )
          : null,
      ),
    ),
  );
}

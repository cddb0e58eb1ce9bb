// A transaction with its data and its receipt, and a quant.

import { chainPath, get, getText, header, pageSize, writerOf } from "./api.js";
import { at, badge, copy, count, facts, h, hash, json, link, plural, preview, table, time, whole } from "./dom.js";
import { eraseForm } from "./forms.js";
import { receiptView } from "./receipt.js";

/** Where one is within a chain. */
const trail = (name, part, word) => h("p", { class: "trail" }, link(name, "chains", name), " / ", link(word, "chains", name, part));

const beside = (name, part, index, last) =>
  h(
    "p",
    { class: "buttons" },
    index > 0 && link("Previous", "chains", name, part, String(index - 1)),
    index < last && link("Next", "chains", name, part, String(index + 1)),
  );

export async function transaction(context, name, index) {
  const { signal } = context;
  const [view, record] = await Promise.all([get(chainPath(name), signal), get(chainPath(name, `transactions/${encodeURIComponent(index)}`), signal)]);
  const { data, salt, hash: leafHash, kind, id, timestamp, erased, commitment, signer, signature, state, quant, index: number, ...more } = record;
  const sealed = state === "sealed";
  const writer = erased ? await writerOf(view, number, signal) : view;
  const canBeErased = !erased && !kind && !view.stats.mirror;
  return h(
    "div",
    null,
    trail(view.name, "transactions", "Transactions"),
    h(
      "div",
      { class: "heading" },
      h("h1", null, `Transaction ${count(number)}`),
      badge(state, sealed ? "good" : "warn"),
      kind && badge(kind),
      erased && badge("erased", "warn"),
      beside(view.name, "transactions", number, view.stats.size - 1),
    ),
    h(
      "div",
      { class: "columns" },
      h(
        "div",
        null,
        h(
          "section",
          null,
          h("h2", null, "Data"),
          erased
            ? h(
                "p",
                null,
                "The data and its salt were removed for ever ",
                time(erased.timestamp),
                ", as ",
                link(`transaction ${count(erased.by)} of ${writer.name}`, "chains", writer.name, "transactions", String(erased.by)),
                " records. Only the commitment is left.",
              )
            : json(data),
        ),
        sealed
          ? await receiptView(context, view, number)
          : h(
              "section",
              null,
              h("h2", null, "Receipt"),
              h("p", null, "There is none yet: no quant covers this transaction. ", link("Leap", "chains", view.name, "write"), " makes one."),
            ),
      ),
      h(
        "div",
        null,
        h("h2", null, "Record"),
        facts([
          ["Index", count(number)],
          ["Id", id ? whole(id) : null],
          ["Kind", kind ?? null],
          ["Accepted", time(timestamp)],
          ["State", state],
          ["Quant", sealed ? link(count(quant), "chains", view.name, "quants", String(quant)) : null],
          ["Hash", whole(leafHash)],
          ["Salt", salt ? whole(salt) : null],
          ["Commitment", commitment ? whole(commitment) : null],
          ["Signer", signer ? whole(signer) : null],
          ["Signature", signature ? whole(signature) : null],
          ...Object.entries(more).map(([name, value]) => [name, h("code", null, JSON.stringify(value))]),
        ]),
        canBeErased && h("details", null, h("summary", null, "Erase the data"), eraseForm(view, number, context.reload)),
      ),
    ),
  );
}

export async function quant({ signal, query }, name, index) {
  const view = await get(chainPath(name), signal);
  const number = index === "latest" ? view.stats.length - 1 : Number(index);
  const { quant, before } = await header(name, number, signal);
  const limit = pageSize(view.stats);
  const from = Math.max(before, Math.min(Number(query.get("from")) || before, quant.size));
  const records =
    from < quant.size ? await get(chainPath(name, `transactions?from=${from}&limit=${Math.min(limit, quant.size - from)}`), signal) : [];
  const columns = [{ name: "Index", number: true }, { name: "Data" }, { name: "Accepted (UTC)" }];
  const rows = records.map((record) => [
    link(count(record.index), "chains", view.name, "transactions", String(record.index)),
    preview(record),
    time(record.timestamp),
  ]);
  const to = (start, text) => h("a", { href: `${at("chains", view.name, "quants", String(number))}?from=${start}` }, text);
  const checkpoint = await getText(chainPath(name, `checkpoint?quant=${number}`), "text/plain", signal).catch(() => null);
  return h(
    "div",
    null,
    trail(view.name, "quants", "Quants"),
    h("div", { class: "heading" }, h("h1", null, `Quant ${count(number)}`), beside(view.name, "quants", number, view.stats.length - 1)),
    facts([
      ["Hash", [whole(quant.hash), " ", copy(() => quant.hash)]],
      ["Quant before", number ? hash(quant.previous_hash, "chains", view.name, "quants", String(number - 1)) : "none"],
      ["Merkle root", whole(quant.root)],
      ["Made", time(quant.timestamp)],
      ["Size of the chain", count(quant.size)],
      ["Seals", plural(quant.size - before, "transaction")],
      ["Work", `${plural(quant.difficulty, "zero bit")}, proof ${count(quant.proof)}`],
      ["Version", quant.version],
    ]),
    h("h2", null, "Transactions"),
    h(
      "p",
      { class: "pager" },
      from > before && to(Math.max(before, from - limit), "Earlier"),
      from + limit < quant.size && to(from + limit, "Later"),
      h(
        "span",
        { class: "quiet" },
        records.length ? `${count(from)} to ${count(from + records.length - 1)} of ${count(before)} to ${count(quant.size - 1)}` : "",
      ),
    ),
    table("Transactions of the quant", columns, rows, "It is empty.").element,
    checkpoint && [h("h2", null, "Checkpoint"), h("pre", { tabindex: 0 }, checkpoint)],
  );
}

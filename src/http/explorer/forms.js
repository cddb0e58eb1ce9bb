// What is done by hand: each form sends one request, and shows what the API has against it at the field at fault.

import { chainPath, post } from "./api.js";
import { count, h, link, say } from "./dom.js";

let forms = 0;

/**
 * A form. A field: `{name, label, hint, kind, required, value}`, where the kind is `text`, `number`, `json`, `lines`, `check` or
 * `choice` (with `choices`), and a name like `leap/every_ms` is the JSON pointer of its value in the body. `send` gets the body,
 * JSON text, and the values; `done` gets the answer and gives what is shown.
 */
function form({ title, about, fields, button, danger, send, done }) {
  const prefix = `form${(forms += 1)}`;
  const inputs = fields.map((field, index) => input(field, `${prefix}-${index}`));
  const result = h("div", { role: "status" });
  const failure = h("p", { role: "alert", class: "alert bad", hidden: true });
  const submit = h("button", { class: danger ? "danger" : "primary" }, button);

  const onsubmit = async (event) => {
    event.preventDefault();
    inputs.forEach((input) => input.fault(null));
    failure.hidden = true;
    const faults = inputs.filter((input) => input.check());
    if (faults.length) return faults[0].control.focus();
    submit.disabled = true;
    try {
      const answer = await send(body(inputs), Object.fromEntries(inputs.map(({ field, value }) => [field.name, value()])));
      const shown = await done(answer);
      result.replaceChildren(h("p", { class: "alert good" }, shown));
      inputs.forEach((input) => input.sent());
    } catch (error) {
      result.replaceChildren();
      submit.disabled = false;
      show(error);
    } finally {
      submit.disabled = false;
    }
  };
  /** Each error goes to the field whose pointer is the longest that leads to it, and all else stands above the button. */
  const show = (error) => {
    const rest = [];
    let first = null;
    for (const { pointer = "", detail } of error.errors ?? []) {
      const fits = inputs.filter(({ field }) => pointer === `/${field.name}` || pointer.startsWith(`/${field.name}/`));
      const input = fits.sort((a, b) => b.field.name.length - a.field.name.length)[0];
      if (!input) {
        rest.push(pointer ? `${pointer}: ${detail}` : detail);
        continue;
      }
      const inner = pointer.slice(input.field.name.length + 1);
      input.fault(inner ? `${inner}: ${detail}` : detail, true);
      first ??= input;
    }
    if (!first || rest.length) {
      failure.hidden = false;
      const wait = error.retryAfter ? ` Try again in ${error.retryAfter} s.` : "";
      failure.replaceChildren(
        h("strong", null, `${error.title ?? "The page has a fault"}: `),
        (rest.length ? rest.join("; ") : error.message) + wait,
      );
    }
    (first?.control ?? submit).focus();
    say(`Refused: ${error.message}`);
  };
  return h(
    "form",
    { class: "card", novalidate: true, onsubmit, "aria-labelledby": `${prefix}-title` },
    h("h2", { id: `${prefix}-title` }, title),
    about && h("p", { class: "quiet" }, about),
    inputs.map(({ element }) => element),
    failure,
    h("p", { class: "buttons" }, submit),
    result,
  );
}

function input(field, id) {
  const { label, hint, kind = "text", required, value = "", choices, rows = 3 } = field;
  const shared = { id, name: field.name, "aria-describedby": `${id}-hint ${id}-fault`, required, spellcheck: "false", autocomplete: "off" };
  const control =
    kind === "check"
      ? h("input", { ...shared, type: "checkbox" })
      : kind === "choice"
        ? h(
            "select",
            shared,
            choices.map(([value, text]) => h("option", { value }, text)),
          )
        : kind === "json" || kind === "lines"
          ? h("textarea", { ...shared, rows, ".value": value })
          : h("input", { ...shared, type: "text", inputmode: kind === "number" ? "numeric" : null, ".value": value });
  const told = h("p", { id: `${id}-fault`, class: "fault" });
  const fault = (text, more = false) => {
    control.setAttribute("aria-invalid", String(text !== null));
    if (text === null) told.replaceChildren();
    else told.append(...(more && told.textContent ? [h("br")] : []), text);
    return text !== null;
  };
  const check = () => {
    const text = kind === "check" ? (control.checked ? "1" : "") : control.value.trim();
    if (required && !text) return fault(kind === "check" ? "Tick this to go on." : "This is asked for.");
    if (kind === "number" && text && !/^\d+$/.test(text)) return fault("This is a whole number.");
    if (kind !== "json" || !text) return false;
    try {
      JSON.parse(text);
      return false;
    } catch (error) {
      return fault(`This is no JSON: ${error.message}. A text stands in quotes.`);
    }
  };
  const element = h(
    "div",
    { class: kind === "check" ? "field check" : "field" },
    h("label", { for: id }, label, required && h("span", { class: "quiet" }, " (needed)")),
    control,
    h("span", { id: `${id}-hint`, class: "hint" }, hint),
    told,
  );
  return {
    field,
    control,
    element,
    fault,
    check,
    value: () => (kind === "check" ? control.checked : control.value.trim()),
    sent: () => field.once && (kind === "check" ? (control.checked = false) : (control.value = "")),
  };
}

/** The JSON text of the fields that have a value. JSON goes in as it was typed, so that the node sees each digit. */
function body(inputs) {
  const tree = new Map();
  for (const { field, value } of inputs) {
    const { name, kind = "text", local } = field;
    if (local || value() === "") continue;
    const text =
      kind === "json"
        ? value()
        : kind === "number"
          ? String(BigInt(value()))
          : kind === "choice" && field.numeric
            ? value()
            : kind === "lines"
              ? JSON.stringify(value().split(/\s+/))
              : JSON.stringify(value());
    const [outer, inner] = name.split("/");
    if (inner === undefined) tree.set(outer, text);
    else tree.set(outer, [...(tree.get(outer) ?? []), `${JSON.stringify(inner)}:${text}`]);
  }
  return `{${[...tree].map(([name, text]) => `${JSON.stringify(name)}:${Array.isArray(text) ? `{${text.join(",")}}` : text}`).join(",")}}`;
}

const RULES = [
  {
    name: "difficulty",
    label: "Difficulty",
    kind: "number",
    hint: "Zero bits that each hash of a quant starts with, 0 to 48. 12 where nothing is said.",
  },
  { name: "schema", label: "Schema", kind: "json", rows: 4, hint: "A JSON Schema (2020-12) that all data must meet; null for any data." },
  { name: "max_bytes", label: "Largest data", kind: "number", hint: "Bytes of canonical data, up to 4,194,304." },
  {
    name: "writers",
    label: "Writers",
    kind: "lines",
    hint: "Ed25519 public keys, a line each, in 64 hexadecimal digits. Then only what one of them signed is taken.",
  },
];

/** Where a chain has writers, one of them must have signed. */
const signed = ({ writers }, what) =>
  !writers
    ? []
    : [
        { name: "signer", label: "Signer", required: true, hint: "The public key of a writer of this chain." },
        { name: "signature", label: "Signature", required: true, hint: `In hexadecimal digits, over the canonical JSON of ${what}.`, once: true },
      ];

export const injectForm = ({ name, rules }) =>
  form({
    title: "Inject",
    about: "Adds a transaction. When the answer comes, it is on disk.",
    button: "Inject",
    fields: [
      { name: "data", label: "Data", kind: "json", required: true, rows: 6, value: "{}", hint: "Any JSON." },
      { name: "id", label: "Id", hint: "Your own name for it, up to 128 characters without space: then it is safe to send it again.", once: true },
      ...signed(rules, "chain, data and, where there is one, id"),
      {
        name: "wait",
        label: "Wait for the quant",
        kind: "check",
        local: true,
        hint: "Answers when a quant has sealed it, after 30 seconds at the latest.",
      },
    ],
    send: (body, { wait }) => post(chainPath(name, `inject${wait ? "?wait=leap" : ""}`), body),
    done: (answer) => {
      const index = answer.index ?? answer.transaction.index;
      return [
        "Accepted as ",
        link(`transaction ${count(index)}`, "chains", name, "transactions", String(index)),
        answer.quant ? `, sealed in quant ${count(answer.quant.index)}.` : ".",
      ];
    },
  });

export const leapForm = ({ name, rules }) =>
  form({
    title: "Leap",
    about: `Mines a quant over the whole pool, at ${rules.difficulty} zero bits.`,
    button: "Leap",
    fields: [],
    send: () => post(chainPath(name, "leap")),
    done: ({ index }) => ["Made ", link(`quant ${count(index)}`, "chains", name, "quants", String(index)), "."],
  });

export const forkForm = ({ name, stats }) =>
  form({
    title: "Fork",
    about: "Makes a chain that shares the past of this one, and goes on alone.",
    button: "Fork",
    fields: [
      { name: "name", label: "Name", required: true, hint: "Lower-case letters and digits; behind the first also . _ -" },
      {
        name: "at",
        label: "At quant",
        kind: "number",
        hint: `The last quant that both have; the newest, ${stats.length - 1}, where nothing is said.`,
      },
      ...RULES.map((field) => ({
        ...field,
        hint: `${field.hint} As in this chain where nothing is said.`.replace(" 12 where nothing is said.", ""),
      })),
    ],
    send: (body) => post(chainPath(name, "fork"), body),
    done: (answer) => ["Made ", link(answer.name, "chains", answer.name), "."],
  });

export const eraseForm = ({ name, rules }, index = null, done = null) =>
  form({
    title: "Erase",
    about: "Removes the data and the salt of a transaction for ever, and records that. Roots and receipts stay as they are.",
    button: "Erase for ever",
    danger: true,
    fields: [
      ...(index === null
        ? [{ name: "index", label: "Transaction", kind: "number", required: true, local: true, hint: "Its index.", once: true }]
        : []),
      { name: "reason", label: "Reason", required: true, hint: "It is recorded on the chain, for ever: name nobody." },
      ...signed(rules, "chain, data and kind"),
      { name: "sure", label: "It cannot be undone, and I want it", kind: "check", required: true, local: true, once: true },
    ],
    send: (body, values) => post(chainPath(name, `transactions/${index ?? values.index}/erase`), body),
    done: (answer) => {
      done?.();
      return [
        "Erased, as ",
        link(`transaction ${count(answer.index)}`, "chains", answer.chain, "transactions", String(answer.index)),
        ` of ${answer.chain} records.`,
      ];
    },
  });

export const bang = async () =>
  h(
    "div",
    null,
    h("h1", null, "New chain"),
    form({
      title: "Bang",
      about: "Its rules are recorded in its first quant, and never change. A fork may have other rules.",
      button: "Make the chain",
      fields: [
        { name: "name", label: "Name", required: true, hint: "Lower-case letters and digits; behind the first also . _ -" },
        ...RULES,
        { name: "leap/every_ms", label: "Leap after", kind: "number", hint: "Milliseconds after a transaction: then the chain leaps by itself." },
        { name: "leap/transactions", label: "Leap at", kind: "number", hint: "Transactions in the pool." },
        {
          name: "replicas",
          label: "Replicas",
          kind: "choice",
          numeric: true,
          choices: [
            ["", "as the cluster has it"],
            ["1", "1"],
            ["3", "3"],
            ["5", "5"],
          ],
          hint: "On how many nodes it is kept.",
        },
      ],
      send: (body) => post("bang", body),
      done: (answer) => ["Made ", link(answer.name, "chains", answer.name), "."],
    }),
  );

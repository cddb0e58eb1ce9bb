// A receipt, verified step by step before one's eyes, and broken by hand.

import { chainPath, get } from "./api.js";
import { copy, count, h, say } from "./dom.js";
import { FLIPS, flipsOf, hex, parseKey, verify } from "./verify.js";

const KEY = "qbc-key";
const SHOWN = 512;
const WORDS = { holds: ["✓", "holds"], breaks: ["✗", "breaks"], open: ["?", "not checked"], noted: ["·", "computed"] };

export async function receiptView({ signal }, chain, index) {
  const section = h("section", { class: "receipt" }, h("h2", null, "Receipt"));
  if (!globalThis.crypto?.subtle) {
    section.append(
      h(
        "p",
        { class: "alert warn" },
        "This page cannot verify it: browsers give cryptography only to pages from HTTPS or from localhost. ",
        h("code", null, `qbc --chain ${chain.name} receipt ${index}`),
        " and ",
        h("code", null, "qbc verify"),
        " do it anywhere.",
      ),
    );
    return section;
  }
  const [receipt, cluster, writes] = await Promise.all([
    get(chainPath(chain.name, `transactions/${index}/receipt`), signal),
    get("cluster", signal).catch(() => null),
    ancestors(chain, signal),
  ]);
  const verdict = h("p", { role: "status", class: "verdict" });
  const list = h("ol", { class: "steps" });
  const which = h(
    "select",
    { id: "flip" },
    flipsOf(receipt).map((name) => h("option", { value: name }, FLIPS[name])),
  );
  const restore = h("button", { type: "button", onclick: () => run(null), disabled: true }, "Restore");
  const key = h("input", {
    id: "trusted-key",
    spellcheck: "false",
    autocomplete: "off",
    ".value": sessionStorage.getItem(KEY) ?? "",
    "aria-describedby": "key-hint",
    onchange: () => (sessionStorage.setItem(KEY, key.value.trim()), run(null)),
  });
  const hint = h("span", { id: "key-hint", class: "hint" }, "What qbc key printed for you, in a way that nobody in between can change.");

  const run = async (flip) => {
    const trusted = parseKey(key.value).bytes ? { key: key.value.trim(), owner: "the key that you entered" } : null;
    const shown = typeof cluster?.key === "string" ? { key: cluster.key, owner: "the key that this node shows as its own" } : null;
    const wrong = key.value.trim() !== "" && !trusted;
    key.setAttribute("aria-invalid", String(wrong));
    hint.textContent = wrong
      ? "This is no verifier key: it has a name, eight digits and base64, with + between."
      : "What qbc key printed for you, in a way that nobody in between can change.";
    const steps = await verify(receipt, { keys: [trusted, shown].filter(Boolean), writes, flip });
    const broken = steps.filter(({ state }) => state === "breaks");
    list.replaceChildren(...steps.map((step) => stepView(step, flip !== null && step === broken[0])));
    restore.toggleAttribute("disabled", flip === null);
    const names = broken.map(({ name }) => name.toLowerCase());
    const authority =
      trusted && steps.some(({ state, detail }) => state === "holds" && detail.includes(trusted.owner))
        ? "It is signed by the key that you entered."
        : trusted
          ? "But the key that you entered has not signed it."
          : "Whether its signer is to be trusted, only a key that you have from elsewhere can tell.";
    verdict.className = `verdict ${broken.length ? "bad" : "good"}`;
    verdict.replaceChildren(
      h("strong", null, broken.length ? "It does not hold" : "The receipt holds"),
      broken.length
        ? `: ${flip ? `with one bit of ${FLIPS[flip]} flipped, ` : ""}what breaks is: ${names.filter((name, at) => names.indexOf(name) === at).join(", ")}.`
        : `: transaction ${count(index)} is in quant ${count(receipt.quant.index)}. ${receipt.checkpoint ? authority : ""}`,
    );
  };
  await run(null);
  section.append(
    verdict,
    list,
    h(
      "div",
      { class: "buttons" },
      h("button", { type: "button", onclick: () => run(which.value).then(() => say(verdict.textContent)) }, "Flip one bit"),
      h("label", { for: "flip" }, "of"),
      which,
      restore,
      copy(() => JSON.stringify(receipt), "Copy the receipt"),
    ),
    h("div", { class: "field" }, h("label", { for: "trusted-key" }, "Key that you trust"), key, hint),
  );
  return section;
}

/** The ids of the chains in which the transaction may have been written: this one, and those that it was forked from. */
async function ancestors(chain, signal) {
  const ids = [chain.id];
  let parent = chain.rules.fork_of;
  while (parent && ids.length < 50) {
    ids.push(parent.chain);
    parent = (await get(chainPath(parent.chain), signal).catch(() => null))?.rules.fork_of;
  }
  return ids;
}

function stepView({ name, state, detail, parts }, first) {
  const [sign, word] = WORDS[state];
  const shown = parts.map(([label, content]) => {
    const text =
      typeof content === "string"
        ? content
        : hex(content.subarray(0, SHOWN))
            .replace(/(.{8})/g, "$1 ")
            .trim();
    const length = typeof content === "string" ? null : content.length;
    return h(
      "div",
      null,
      h(
        "dt",
        null,
        label,
        length !== null &&
          h("span", { class: "quiet" }, ` ${count(length)} ${length === 1 ? "byte" : "bytes"}${length > SHOWN ? `, the first ${SHOWN}` : ""}`),
      ),
      h("dd", null, h("code", { class: "bytes" }, text)),
    );
  });
  return h(
    "li",
    { class: state },
    h(
      "details",
      { open: first },
      h(
        "summary",
        null,
        h("span", { class: "sign", "aria-hidden": "true" }, sign),
        h("strong", null, name),
        h("span", { class: "word" }, word),
        h("span", { class: "detail" }, detail),
      ),
      h("dl", { class: "parts" }, shown),
    ),
  );
}

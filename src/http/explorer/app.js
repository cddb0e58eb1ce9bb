// The frame of the page: which view is shown, what is in danger at the top, search, and the token.

import { Problem, get, setToken, token } from "./api.js";
import { at, h, say } from "./dom.js";
import { chains } from "./chains.js";
import { chain } from "./chain.js";
import { cluster } from "./cluster.js";
import { bang } from "./forms.js";
import { chapter, contents } from "./guide.js";
import { quant, transaction } from "./records.js";
import { search } from "./search.js";

const main = document.getElementById("main");

/** The views by the segments of their place; `*` is any segment, and goes to the view. */
const VIEWS = [
  [[], chains],
  [["new"], bang],
  [["cluster"], cluster],
  [["guide"], contents],
  [["guide", "*"], chapter],
  [["search", "*", "*"], search],
  [["chains", "*"], chain],
  [["chains", "*", "transactions", "*"], transaction],
  [["chains", "*", "quants", "*"], quant],
  [["chains", "*", "*"], chain],
];

/** The place that is shown: its segments, and its query. */
function place() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  try {
    return { segments: path.split("/").filter(Boolean).map(decodeURIComponent), query: new URLSearchParams(query) };
  } catch {
    return { segments: ["?"], query: new URLSearchParams() };
  }
}

function problemOf(error) {
  if (!(error instanceof Problem)) console.error(error);
  const title = error instanceof Problem ? error.title : "The page has a fault";
  return h("section", { class: "problem", role: "alert" }, h("h1", { tabindex: -1 }, title), h("p", null, error.message));
}

let leave = new AbortController();

/** Shows the view of the place. It gets what it needs: its query, when it ends, and a way to look again and again. */
async function show() {
  leave.abort();
  leave = new AbortController();
  const { signal } = leave;
  const { segments, query } = place();
  const fits = ([pattern]) => pattern.length === segments.length && pattern.every((part, index) => part === "*" || part === segments[index]);
  const found = VIEWS.find(fits);
  const notice = h("p", { class: "notice", role: "status", hidden: true });
  const every = (ms, look) => {
    const again = async () => {
      if (signal.aborted) return;
      try {
        if (!document.hidden) await look();
        notice.hidden = true;
      } catch (error) {
        if (signal.aborted) return;
        if (!(error instanceof Problem)) console.error(error);
        notice.hidden = false;
        notice.textContent = `What is shown may be old: ${error.message}`;
      }
      setTimeout(again, ms);
    };
    return again();
  };
  let content;
  document.body.classList.add("loading");
  try {
    if (!found) throw new Problem(404, "Not found", "the explorer has no such page");
    const values = segments.filter((_, index) => found[0][index] === "*");
    content = await found[1]({ signal, query, every, reload: show, go: (...parts) => (location.hash = at(...parts)) }, ...values);
  } catch (error) {
    if (signal.aborted) return;
    content = problemOf(error);
  }
  if (signal.aborted) return;
  document.body.classList.remove("loading");
  main.replaceChildren(notice, content);
  const heading = main.querySelector("h1");
  document.title = heading ? `${heading.textContent} · QBC` : "QBC";
  for (const link of document.querySelectorAll("nav[aria-label=Main] a")) {
    const section = link.getAttribute("href").slice(2);
    const current = section === (["cluster", "guide"].includes(segments[0]) ? segments[0] : "");
    if (current) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  return heading;
}

/** Those who cannot see that the page is another one are led to its heading. */
addEventListener("hashchange", async () => {
  const heading = await show();
  heading?.setAttribute("tabindex", "-1");
  heading?.focus({ preventScroll: true });
  scrollTo(0, 0);
});

// What is in danger, at the top of each view.

const alerts = document.getElementById("alerts");
let asked = null;

async function dangers() {
  const found = [];
  if (asked) found.push(["warn", asked]);
  try {
    const { warnings = [] } = await get("readyz");
    warnings.forEach((text) => found.push(["warn", text]));
  } catch (error) {
    if (error.status !== 401) found.push(["bad", error.message]);
    if (error.status === 0) return found;
  }
  const cluster = await get("cluster").catch(() => null);
  for (const { host, state } of cluster?.nodes ?? [])
    if (state !== "live") found.push([state === "down" ? "bad" : "warn", `The node ${host} is ${state}.`]);
  for (const { id, leader } of cluster?.groups ?? []) if (!leader) found.push(["bad", `The group ${id} has no leader: its chains take no writes.`]);
  for (const { chain, error, evidence } of await get("mirrors").catch(() => [])) {
    if (evidence?.length) found.push(["bad", `The mirror of ${chain} has stopped: its source contradicts itself, and the evidence is kept.`]);
    else if (error) found.push(["warn", `The mirror of ${chain}: ${error}`]);
  }
  for (const { origin } of (await get("witness?limit=1000").catch(() => ({ logs: [] }))).logs.filter(({ evidence }) => evidence?.length))
    found.push(["bad", `This witness has evidence against ${origin}.`]);
  return found;
}

async function watch() {
  if (!document.hidden) {
    const found = await dangers();
    const text = found.map(([tone, text]) => tone + text).join("\n");
    // The same again is not told again.
    if (alerts.dataset.shown !== text) {
      alerts.dataset.shown = text;
      alerts.replaceChildren(
        ...found
          .slice(0, 8)
          .map(([tone, text]) => h("p", { class: `alert ${tone}` }, h("strong", null, tone === "bad" ? "Danger: " : "Attention: "), text)),
        ...(found.length > 8 ? [h("p", { class: "alert warn" }, `${found.length - 8} more.`)] : []),
      );
    }
  }
  setTimeout(watch, 5000);
}

// Search, and the keys that lead to it.

document.getElementById("search").addEventListener("submit", (event) => {
  event.preventDefault();
  const query = document.getElementById("query").value.trim();
  const { segments } = place();
  const within = segments[0] === "chains" ? segments[1] : segments[0] === "search" ? segments[1] : "qbc";
  if (query) location.hash = at("search", within, query);
});

addEventListener("keydown", (event) => {
  const types = event.target.closest?.("input, textarea, select, dialog");
  if (event.key !== "/" || types || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  document.getElementById("query").focus();
});

// The token.

const [access, button, bearer] = ["access", "token", "bearer"].map((id) => document.getElementById(id));
const tell = () => button.replaceChildren(token() ? "Token ✓" : "Token");
const open = () => ((bearer.value = token() ?? ""), access.showModal());
button.addEventListener("click", open);
access.addEventListener("close", () => {
  if (!["use", "forget"].includes(access.returnValue)) return;
  setToken(access.returnValue === "use" ? bearer.value.trim() : null);
  bearer.value = access.returnValue = "";
  asked = null;
  tell();
  say(token() ? "The token is used" : "The token is forgotten");
  show();
});
addEventListener("token-needed", (event) => {
  if (asked === null && !access.open) open();
  asked = `This node asks for a token: ${event.detail}`;
});

tell();
show();
watch();

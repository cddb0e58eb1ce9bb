// What the page asks of the node: the public interface, relative to the page, so that it works behind any path.

const TOKEN = "qbc-token";

/** The token of this tab, or null. */
export const token = () => sessionStorage.getItem(TOKEN);

export function setToken(text) {
  if (text) sessionStorage.setItem(TOKEN, text);
  else sessionStorage.removeItem(TOKEN);
}

/** An answer that is an error: a problem document (RFC 9457), or that there was no answer. */
export class Problem extends Error {
  constructor(status, title, detail, errors = [], retryAfter = null) {
    super(detail);
    Object.assign(this, { status, title, errors, retryAfter });
  }

  static async of(response) {
    const text = await response.text();
    let body = {};
    try {
      body = JSON.parse(text) ?? {};
    } catch {
      // A proxy in between may answer anything.
    }
    const errors = Array.isArray(body.errors) ? body.errors : [];
    const detail = body.detail ?? (text.slice(0, 300) || `the answer is ${response.status}, and says nothing more`);
    return new Problem(response.status, body.title ?? `Status ${response.status}`, detail, errors, response.headers.get("Retry-After"));
  }
}

/** The answer to a request, once its head is there; an error is thrown as a {@link Problem}. */
export async function ask(path, { accept = "application/json", ...options } = {}) {
  const headers = { Accept: accept, ...options.headers };
  if (token()) headers.Authorization = `Bearer ${token()}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers, redirect: "error" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "No answer", "the node does not answer: is it running, and can this browser reach it?");
  }
  if (response.ok) return response;
  const problem = await Problem.of(response);
  // A chain with writers asks for their signature in the same way.
  if (problem.status === 401 && /^bearer/i.test(response.headers.get("WWW-Authenticate")))
    dispatchEvent(new CustomEvent("token-needed", { detail: problem.message }));
  throw problem;
}

/** The JSON of a GET. */
export const get = async (path, signal) => (await ask(path, { signal })).json();

/** The text of a GET. */
export const getText = async (path, accept, signal) => (await ask(path, { accept, signal })).text();

/** The JSON of a POST of a body, which is JSON text. */
export async function post(path, body) {
  const headers = body === undefined ? {} : { "Content-Type": "application/json" };
  return (await ask(path, { method: "POST", headers, body })).json();
}

/** A page of a list in ascending order, of as many transactions as a browser takes at one time: few where they are large. */
export function pageSize({ size, bytes }) {
  return Math.max(5, Math.min(50, Math.floor((4 << 20) / Math.max(1, bytes / Math.max(1, size)))));
}

/** The header of a quant, without its transactions, and the size of the chain before it. */
export async function header(chain, index, signal) {
  const from = Math.max(0, index - 1);
  const found = await get(chainPath(chain, `chain?from=${from}&limit=2&transactions=false`), signal);
  const quant = found.find((quant) => quant.index === index);
  if (!quant) throw new Problem(404, "Not Found", `the chain ${chain} has no quant ${index}`);
  return { quant, before: index === 0 ? 0 : found[0].size };
}

/** The chain that wrote a transaction: the one that is shown, or one that it was forked from behind it. */
export async function writerOf(chain, index, signal) {
  for (let { fork_of: of } = chain.rules; of; { fork_of: of } = chain.rules) {
    const { quant } = await header(chain.name, of.index, signal);
    const parent = index < quant.size ? await get(chainPath(of.chain), signal).catch(() => null) : null;
    if (!parent) break;
    chain = parent;
  }
  return chain;
}

/** The path of a chain, or of something in it. */
export const chainPath = (chain, rest = "") => `chains/${encodeURIComponent(chain)}${rest && `/${rest}`}`;

const waits = (ms, signal) =>
  new Promise((done) => {
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", () => (clearTimeout(timer), done()), { once: true });
  });

/**
 * Follows the events of a chain from a transaction on until the signal, and connects again by itself, behind the last event: so
 * nothing is missed, and nothing comes twice.
 *
 * EventSource can send no token, so the stream is read here. `take` gets a list of frames that came together, each
 * `{id, event, data}` with the data as text: who is flooded need not parse what is not shown.
 */
export async function follow(chain, from, signal, take, state) {
  let [last, start] = [null, `events?from=${from}`];
  while (!signal.aborted) {
    try {
      const headers = last === null ? {} : { "Last-Event-ID": last };
      const response = await ask(chainPath(chain, last === null ? start : "events"), {
        accept: "text/event-stream",
        headers,
        signal,
        cache: "no-store",
      });
      state("live");
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let pieces = [];
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        // A frame of megabytes comes in many pieces: they are joined once, when its end is there.
        const end = value.lastIndexOf("\n\n");
        const split = end === -1 && pieces.length > 0 && value.startsWith("\n") && pieces.at(-1).endsWith("\n") ? 1 : end + 2;
        if (end === -1 && split !== 1) {
          pieces.push(value);
          continue;
        }
        const frames = parse(pieces.join("") + value.slice(0, split));
        pieces = [value.slice(split)];
        last = frames.findLast((frame) => frame.id !== null)?.id ?? last;
        take(frames.filter((frame) => frame.event !== null));
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error.status === 400 || error.status === 404) [last, start] = [null, "events"];
      if (error.status === 401 || error.status === 403) return state("refused", error.message);
    }
    state("waiting");
    await waits(2000, signal);
  }
}

/** Server-sent events as QBC writes them: each field once in a frame. */
function parse(text) {
  return text
    .split("\n\n")
    .filter((frame) => frame !== "")
    .map((frame) => {
      const fields = { id: null, event: null, data: "" };
      for (const line of frame.split("\n")) {
        const colon = line.indexOf(":");
        if (Object.hasOwn(fields, line.slice(0, colon))) fields[line.slice(0, colon)] = line.slice(colon + 1).trimStart();
      }
      return fields;
    });
}

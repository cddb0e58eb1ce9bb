// Search: an index, an id, a hash, or a name. Whatever the API finds by it.

import { ask, chainPath, get } from "./api.js";
import { at, h, link } from "./dom.js";

/** The index of a quant that is named by its hash. It comes first: the transactions behind it may be a million, and stay there. */
async function quantByHash(chain, hash, signal) {
  const enough = new AbortController();
  try {
    const response = await ask(chainPath(chain, `quants/${hash}`), { signal: AbortSignal.any([signal, enough.signal]) });
    const { value } = await response.body.pipeThrough(new TextDecoderStream()).getReader().read();
    return value.match(/^\{"index":(\d+)/)?.[1];
  } finally {
    enough.abort();
  }
}

export async function search({ signal }, within, query) {
  const look = async (what, places) => {
    try {
      const found = await places();
      return found && { what, place: found };
    } catch (error) {
      if (signal.aborted || ![400, 404, 422].includes(error.status)) throw error;
      return null;
    }
  };
  const exists = async (path, ...place) => (await get(path, signal), place);
  const looks = [];
  if (/^\d{1,16}$/.test(query)) {
    const index = String(Number(query));
    looks.push(
      look(`Transaction ${index} of ${within}`, () => exists(chainPath(within, `transactions/${index}`), "chains", within, "transactions", index)),
    );
    looks.push(
      look(`Quant ${index} of ${within}`, async () => {
        const quants = await get(chainPath(within, `chain?from=${index}&limit=1&transactions=false`), signal);
        return quants.length ? ["chains", within, "quants", index] : null;
      }),
    );
  }
  if (/^[0-9a-f]{64}$/i.test(query)) {
    const hash = query.toLowerCase();
    looks.push(
      look(`Quant of ${within} with this hash`, async () => {
        const index = await quantByHash(within, hash, signal);
        return index === undefined ? null : ["chains", within, "quants", index];
      }),
    );
    looks.push(look("Chain with this id", async () => ["chains", (await get(chainPath(hash), signal)).name]));
  }
  if (/^[a-z0-9][a-z0-9._-]{0,62}$/.test(query)) looks.push(look(`Chain ${query}`, () => exists(chainPath(query), "chains", query)));
  if (/^[!-~]{1,128}$/.test(query))
    looks.push(
      look(`Transaction of ${within} with the id ${query}`, async () => [
        "chains",
        within,
        "transactions",
        String((await get(chainPath(within, `transactions/by-id/${encodeURIComponent(query)}`), signal)).index),
      ]),
    );
  const hits = (await Promise.all(looks)).filter(Boolean);
  if (hits.length === 1) location.replace(at(...hits[0].place));
  const list = hits.map(({ what, place }) => h("li", null, link(what, ...place)));
  return h(
    "div",
    null,
    h("h1", null, `Search: ${query}`),
    hits.length
      ? h("ul", null, list)
      : h(
          "p",
          null,
          `Neither is there a chain of this name or id, nor has the chain ${within} a transaction or quant of this index, a transaction with this id, or a quant with this hash. `,
          "A transaction is found by its index or its id, in the chain that was shown.",
        ),
  );
}

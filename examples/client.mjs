// A client in JavaScript, for Node and for pages: records a value exactly once, waits for its receipt, and checks that without
// the node.
//
//     node examples/client.mjs http://localhost:5000/chains/orders [KEY]
//
// In a page: import { record, verify } from "./client.mjs". The page must be served by https or from localhost (WebCrypto), and the
// node must allow its site (--cors-origin). KEY is what `qbc key` prints. The chain must leap by itself
// (`qbc bang orders --leap-every 1s`), or somebody must ask it to.

// Injects data, and returns the text of its receipt. The id makes it safe to send it again after any failure.
export async function record(chain, data, id) {
  const url = new URL(`${chain}/inject?wait=leap`);
  const request = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ data, id }) };
  for (;;) {
    const [status, text] = await fetch(url, { ...request, signal: AbortSignal.timeout(60_000) })
      .then(async (answer) => [answer.status, await answer.text()])
      .catch(() => [503, ""]); // Whether it was accepted, the next answer tells.
    if (status === 201) return text;
    if (![429, 503, 504, 507].includes(status)) throw new Error(JSON.parse(text).detail);
    await new Promise((done) => setTimeout(done, 500));
  }
}

const utf8 = (text) => new TextEncoder().encode(text);
const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
const fromHex = (text) => Uint8Array.from(text.match(/../g) ?? [], (digits) => parseInt(digits, 16));
const base64 = (bytes) => btoa(String.fromCharCode(...bytes));
const fromBase64 = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const join = (...parts) => Uint8Array.from(parts.flatMap((part) => [...part]));
const H = async (...parts) => new Uint8Array(await crypto.subtle.digest("SHA-256", join(...parts)));
// Canonical JSON (RFC 8785) of the members that an object has of these, which stand in order.
const jcs = (object, names) =>
  utf8(JSON.stringify(Object.fromEntries(names.filter((name) => name in object).map((name) => [name, object[name]]))));

function must(holds, what) {
  if (!holds) throw new Error(`the receipt does not hold: ${what}`);
}

// Checks a receipt, and returns the data that it proves (undefined where that is erased).
export async function verify(text, key) {
  const receipt = JSON.parse(text);
  const { transaction, quant } = receipt;
  let data;
  let commitment = transaction.commitment;
  if (!("erased" in transaction)) {
    // The node serves data as canonical JSON, so these bytes of the receipt are what was hashed.
    const canonical = text.slice(text.indexOf('"data":') + 7, text.lastIndexOf(',"salt":"'));
    data = JSON.parse(canonical);
    commitment = hex(await H(fromHex(transaction.salt), utf8(canonical)));
  }
  const leaf = jcs({ ...transaction, commitment }, ["commitment", "id", "kind", "signature", "signer", "timestamp"]);
  let node = await H([0], leaf);
  must(hex(node) === transaction.hash, "the transaction has another hash");

  // The inclusion proof (RFC 9162, section 2.1.3.2).
  let [position, last] = [transaction.index, quant.size - 1];
  const up = () => ([position, last] = [Math.floor(position / 2), Math.floor(last / 2)]);
  must(0 <= position && position <= last, "the quant does not reach the transaction");
  for (const sibling of receipt.path.map(fromHex)) {
    must(last > 0, "the path is too long");
    if (position % 2 === 1 || position === last) {
      node = await H([1], sibling, node);
      while (position % 2 === 0 && position > 0) up();
    } else {
      node = await H([1], node, sibling);
    }
    up();
  }
  must(last === 0 && hex(node) === quant.root, "the path leads to another root");

  const header = jcs(quant, ["difficulty", "index", "previous_hash", "root", "size", "timestamp", "version"]);
  const proof = new DataView(new ArrayBuffer(8));
  proof.setBigUint64(0, BigInt(quant.proof));
  const digest = hex(await H(await H(header), new Uint8Array(proof.buffer)));
  must(digest === quant.hash, "the quant has another hash");
  must(BigInt(`0x${digest}`) >> BigInt(256 - quant.difficulty) === 0n, "the quant lacks its proof of work");
  if (key) must(await isSigned(receipt, key), "the key has not signed its checkpoint");
  return data;
}

// Whether the receipt's checkpoint names its chain and its quant, and has a signature by the key (C2SP signed-note).
async function isSigned({ chain, quant, checkpoint }, key) {
  const text = `qbc/${chain}\n${quant.size}\n${base64(fromHex(quant.root))}\nquant ${quant.index} ${quant.hash}\n`;
  const [, name, id, content] = key.match(/^([^+]+)\+([^+]+)\+(.+)$/);
  const [note, signatures] = checkpoint.split("\n\n");
  if (`${note}\n` !== text) return false;
  const publicKey = await crypto.subtle.importKey("raw", fromBase64(content).slice(1), "Ed25519", false, ["verify"]);
  for (const line of signatures.trim().split("\n")) {
    const [, signer, encoded] = line.split(" ");
    const signature = fromBase64(encoded);
    if (signer === name && hex(signature.slice(0, 4)) === id)
      return crypto.subtle.verify("Ed25519", publicKey, signature.slice(4), utf8(text));
  }
  return false;
}

const script = globalThis.process?.argv?.[1];
if (script && import.meta.url.endsWith(script.split("/").pop())) {
  const [chain, key] = process.argv.slice(2);
  const receipt = await record(chain, { order: 1017, total: "19.90" }, "order-1017");
  const data = JSON.stringify(await verify(receipt, key));
  console.log("verified:", data, key ? "" : "(but not whose chain it is: no key was given)");
  const fault = await verify(receipt.replace("19.90", "9.90"), key).then(() => null, (error) => error);
  if (!fault) throw new Error("a forged receipt was taken");
  console.log("forged:", fault.message);
}

// A receipt, verified here with the browser's own cryptography. Nothing is taken from the node but the receipt itself and, for
// the names of keys, what the node says its keys are. The steps are those of the guide's chapter "format".

const utf8 = (text) => new TextEncoder().encode(text);
export const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
const fromHex = (text) => Uint8Array.from(text.match(/../g) ?? [], (digits) => parseInt(digits, 16));
const base64 = (bytes) => btoa(String.fromCharCode(...bytes));
const fromBase64 = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

function join(...parts) {
  const joined = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let end = 0;
  for (const part of parts) {
    joined.set(part, end);
    end += part.length;
  }
  return joined;
}

const sha256 = async (...parts) => new Uint8Array(await crypto.subtle.digest("SHA-256", join(...parts)));

/** Canonical JSON (RFC 8785): JavaScript's own numbers and strings, names in the order of their UTF-16 code units. */
export function jcs(value) {
  if (Array.isArray(value)) return `[${value.map(jcs).join(",")}]`;
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  return `{${Object.keys(value)
    .sort()
    .map((name) => `${JSON.stringify(name)}:${jcs(value[name])}`)
    .join(",")}}`;
}

const members = (object, names) => Object.fromEntries(names.filter((name) => Object.hasOwn(object, name)).map((name) => [name, object[name]]));

const LEAF = ["commitment", "id", "kind", "signature", "signer", "timestamp"];
const HEADER = ["difficulty", "index", "previous_hash", "root", "size", "timestamp", "version"];

/** What can be broken by hand, and what that is called. */
export const FLIPS = {
  data: "the data",
  salt: "the salt",
  time: "the time",
  path: "the path",
  root: "the root of the quant",
  proof: "the proof of work",
  checkpoint: "the checkpoint",
  signature: "the signatures of the checkpoint",
};

/** The bytes with one bit in their middle changed. */
function flipped(bytes) {
  const changed = Uint8Array.from(bytes);
  if (changed.length) changed[changed.length >> 1] ^= 1;
  return changed;
}

/** A receipt of which one bit is another one. The data is changed as canonical bytes, since it might be JSON no more. */
function damaged(receipt, what) {
  const changed = structuredClone(receipt);
  const { transaction, quant } = changed;
  const digit = (text) => text.slice(0, 9) + (parseInt(text[9], 16) ^ 1).toString(16) + text.slice(10);
  const last = (text) => text.slice(0, -2) + (text.at(-2) ^ 1) + text.slice(-1);
  if (what === "salt" && transaction.salt) transaction.salt = digit(transaction.salt);
  if (what === "time") transaction.timestamp = last(transaction.timestamp);
  if (what === "path" && changed.path.length) changed.path[0] = digit(changed.path[0]);
  if (what === "root") quant.root = digit(quant.root);
  if (what === "proof") quant.proof ^= 1;
  if (what === "checkpoint" && changed.checkpoint) changed.checkpoint = changed.checkpoint.replace(/\n(\d+)\n/, (_, size) => `\n${size ^ 1}\n`);
  if (what === "signature" && changed.checkpoint)
    changed.checkpoint = changed.checkpoint.replaceAll(/(— \S+ )(\S+)/g, (_, head, text) => head + base64(flipped(fromBase64(text))));
  return changed;
}

/** Which of the flips change something in this receipt. */
export const flipsOf = ({ transaction, path, checkpoint }) =>
  Object.keys(FLIPS).filter(
    (what) =>
      ({
        data: !transaction.erased,
        salt: !transaction.erased,
        path: path.length > 0,
        checkpoint: Boolean(checkpoint),
        signature: Boolean(checkpoint),
      })[what] ?? true,
  );

/**
 * Verifies a receipt, or it with one bit flipped. Gives the steps: `{name, state, detail, parts}`, where the state is `holds`,
 * `breaks`, `open` (it cannot be checked here) or `noted`, and parts are pairs of a label and bytes or text.
 *
 * `keys` are `{key, owner}`: verifier keys as `qbc key` prints them, and whose each is said to be. `writes` are the ids of the
 * chains in which the transaction may have been signed: the chain, and those that it was forked from.
 */
export async function verify(received, { keys = [], writes = [received.chain], flip = null } = {}) {
  const receipt = damaged(received, flip);
  const { transaction, quant } = receipt;
  const steps = [];
  const step = (name, state, detail, ...parts) => steps.push({ name, state, detail, parts });
  const check = (name, holds, good, bad, ...parts) => step(name, holds ? "holds" : "breaks", holds ? good : bad, ...parts);

  let commitment = transaction.commitment;
  let data = null;
  if (transaction.erased) {
    step("Data", "noted", "The data was erased. Its commitment stays in the leaf, so that all else can be checked.", [
      "commitment",
      fromHex(commitment),
    ]);
  } else {
    data = utf8(jcs(transaction.data));
    if (flip === "data") data = flipped(data);
    step("Data", "noted", `Canonical JSON (RFC 8785), ${data.length} bytes.`, ["canonical data", data]);
    const salt = fromHex(transaction.salt);
    const digest = await sha256(salt, data);
    commitment = hex(digest);
    step("Commitment", "noted", "SHA-256 of the salt and the data. The leaf has it in the data's place.", ["salt", salt], ["commitment", digest]);
  }

  const leaf = utf8(jcs({ ...members(transaction, LEAF), commitment }));
  let node = await sha256([0], leaf);
  check(
    "Leaf",
    hex(node) === transaction.hash,
    "The hash of the leaf is the hash of the transaction.",
    "The leaf has another hash than the transaction says.",
    ["leaf", leaf],
    ["SHA-256(00 ‖ leaf)", node],
    ["hash of the transaction", fromHex(transaction.hash)],
  );

  if (transaction.signer) await checkWriter(transaction, data, writes, check, step);

  const climbed = await climb(node, transaction.index, quant.size, receipt.path.map(fromHex));
  const reaches = climbed.complete && hex(climbed.root) === quant.root;
  check(
    "Path",
    reaches,
    `${receipt.path.length} hashes lead from the leaf to the root of the quant (RFC 9162).`,
    climbed.complete ? "The path leads to another root than that of the quant." : "The path has not the length that the tree's size asks for.",
    ...climbed.parts,
    ["root reached", climbed.root],
    ["root of the quant", fromHex(quant.root)],
  );

  const header = utf8(jcs(members(quant, HEADER)));
  const proof = new Uint8Array(8);
  new DataView(proof.buffer).setBigUint64(0, BigInt(quant.proof));
  const inner = await sha256(header);
  const digest = await sha256(inner, proof);
  check(
    "Quant",
    hex(digest) === quant.hash,
    "The header and the proof have the hash of the quant.",
    "The header and the proof have another hash than the quant says.",
    ["header", header],
    ["SHA-256(header)", inner],
    ["proof", proof],
    ["SHA-256(SHA-256(header) ‖ proof)", digest],
    ["hash of the quant", fromHex(quant.hash)],
  );
  const zeros = leadingZeros(digest);
  check(
    "Work",
    zeros >= quant.difficulty,
    `The hash starts with ${zeros} zero bits; ${quant.difficulty} are asked for.`,
    `The hash starts with ${zeros} zero bits, but ${quant.difficulty} are asked for.`,
    ["hash", digest],
  );

  if (receipt.checkpoint) await checkCheckpoint(receipt, keys, check, step);
  else step("Checkpoint", "open", "The receipt has none: nothing here shows whose chain it is.");
  return steps;
}

/** Climbs from a leaf to the root (RFC 9162, section 2.1.3.2). Indexes are below 2^53, so there is no arithmetic of bits. */
async function climb(node, index, size, path) {
  let [position, last, complete] = [index, size - 1, index < size];
  const parts = [];
  for (const sibling of path) {
    if (last === 0) complete = false;
    const left = position % 2 === 1 || position === last;
    node = left ? await sha256([1], sibling, node) : await sha256([1], node, sibling);
    parts.push([left ? "left sibling" : "right sibling", sibling], ["node", node]);
    while (left && position % 2 === 0 && position > 0) [position, last] = [Math.floor(position / 2), Math.floor(last / 2)];
    [position, last] = [Math.floor(position / 2), Math.floor(last / 2)];
  }
  return { root: node, complete: complete && last === 0, parts };
}

function leadingZeros(digest) {
  const at = digest.findIndex((byte) => byte !== 0);
  return at === -1 ? 8 * digest.length : 8 * at + Math.clz32(digest[at]) - 24;
}

/** Whether an Ed25519 signature holds; null where this browser has no Ed25519. */
async function signed(key, signature, message) {
  try {
    const imported = await crypto.subtle.importKey("raw", key, "Ed25519", false, ["verify"]);
    return await crypto.subtle.verify("Ed25519", imported, signature, message);
  } catch (error) {
    if (error.name === "NotSupportedError") return null;
    return false;
  }
}

const NO_ED25519 = "This browser has no Ed25519 in its WebCrypto, so the signature was not checked: qbc verify does.";

async function checkWriter(transaction, data, writes, check, step) {
  if (data === null) return step("Writer", "open", "The data is erased, and with it what was signed.");
  const [key, signature] = [fromHex(transaction.signer), fromHex(transaction.signature)];
  const also = members(transaction, ["id", "kind"]);
  let held = false;
  for (const chain of writes) {
    // The data stands in it as the bytes that were checked above; names are in order: chain, data, id, kind.
    const rest = jcs(also).slice(1);
    const message = join(utf8(`{"chain":${jcs(chain)},"data":`), data, utf8(rest === "}" ? rest : `,${rest}`));
    held = await signed(key, signature, message);
    if (held !== false) break;
  }
  if (held === null) return step("Writer", "open", NO_ED25519, ["signer", key], ["signature", signature]);
  check(
    "Writer",
    held,
    "The signature of the transaction is its signer's.",
    "The signature of the transaction is not its signer's.",
    ["signer", key],
    ["signature", signature],
  );
}

async function checkCheckpoint({ chain, quant, checkpoint }, keys, check, step) {
  const [body, lines = ""] = checkpoint.split("\n\n");
  const note = `${body}\n`;
  const expected = `qbc/${chain}\n${quant.size}\n${base64(fromHex(quant.root))}\nquant ${quant.index} ${quant.hash}\n`;
  check(
    "Checkpoint",
    note === expected,
    "It names this chain, the size and root of the quant, and its hash.",
    "It speaks of another chain, size, root or quant.",
    ["checkpoint", note],
    ["what this quant asks for", expected],
  );
  const known = [...keys, ...namedKeys(lines)].map(({ key, owner }) => ({ owner, ...parseKey(key) })).filter((key) => key.bytes);
  for (const line of lines.split("\n").filter((line) => line.startsWith("— "))) await checkSignature(line, note, known, check, step);
}

/** The keys that the names of QBC's signers spell out: they show who signed, and not that one should trust them. */
function namedKeys(lines) {
  const names = lines.matchAll(/^— (qbc\/(node|cluster|witness)\/([0-9a-f]{64})) /gm);
  return Array.from(names, ([, name, kind, digits]) => ({
    key: `${name}++${base64(join([kind === "witness" ? 4 : 1], fromHex(digits)))}`,
    owner: null,
  }));
}

/** A verifier key (C2SP signed-note): name, id, and base64 of the algorithm and the public key. */
export function parseKey(text) {
  const match = text.trim().match(/^([^+\s]+)\+([0-9a-f]{8})?\+([A-Za-z0-9+/=]+)$/);
  if (!match) return {};
  try {
    const content = fromBase64(match[3]);
    return content.length === 33 ? { name: match[1], algorithm: content[0], bytes: content.slice(1) } : {};
  } catch {
    return {};
  }
}

const COSIGNATURE = 4;

async function checkSignature(line, note, known, check, step) {
  const [, name, text] = line.split(" ");
  const content = fromBase64(text);
  const id = hex(content.slice(0, 4));
  // A node signs under the name of the chain as well, by the same key: the id of the key tells which one it is.
  let found = null;
  for (const key of known) {
    const digest = await sha256(utf8(`${name}\n`), [key.algorithm], key.bytes);
    if (hex(digest.slice(0, 4)) === id) found ??= key;
  }
  const parts = [
    ["name", name],
    ["id of the key, and signature", content],
  ];
  const kind = found?.algorithm === COSIGNATURE ? "Cosignature" : "Signature";
  if (!found) return step(kind, "open", `The key of ${name} is not known here: enter it below.`, ...parts);
  let [signature, message, when] = [content.slice(4), utf8(note), ""];
  if (found.algorithm === COSIGNATURE) {
    const seconds = new DataView(content.buffer).getBigUint64(4);
    [signature, message] = [content.slice(12), utf8(`cosignature/v1\ntime ${seconds}\n${note}`)];
    when = ` at ${new Date(Math.min(Number(seconds) * 1000, 8.64e15)).toISOString().slice(0, 19)}Z`;
  }
  const held = await signed(found.bytes, signature, message);
  parts.push(["public key", found.bytes], ["what is signed", message]);
  if (held === null) return step(kind, "open", NO_ED25519, ...parts);
  const owner = known.find((key) => key.owner && hex(key.bytes) === hex(found.bytes))?.owner;
  check(
    kind,
    held,
    `${name} has signed it${when}: ${owner ?? "the key is in the name; whether to trust it, you must know"}.`,
    `It is no signature of ${name}.`,
    ...parts,
  );
}

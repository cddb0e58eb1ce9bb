#!/usr/bin/env python3
"""A client in Python: records a value exactly once, waits for its receipt, and checks that without the node.

    python3 examples/client.py http://localhost:5000/chains/orders [KEY]

Needs requests and, to check whose chain it is (KEY, as `qbc key` prints it), cryptography. The chain must leap by itself
(`qbc bang orders --leap-every 1s`), or somebody must ask it to.
"""
import base64, hashlib, json, sys, time
import requests


def record(chain, data, id):
    """Injects data, and returns the text of its receipt. The id makes it safe to send it again after any failure."""
    while True:
        try:
            answer = requests.post(f"{chain}/inject?wait=leap", json={"data": data, "id": id}, timeout=60)
            if answer.status_code == 201:
                return answer.content.decode()
            if answer.status_code not in (429, 503, 504, 507):
                raise ValueError(answer.json()["detail"])
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError):
            pass  # Whether it was accepted, the next answer tells.
        time.sleep(0.5)


def H(data):
    return hashlib.sha256(data).digest()


def jcs(value):
    """Canonical JSON (RFC 8785) of what leaves and headers have: short texts of ASCII, and whole numbers."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def verify(text, key=None):
    """Checks a receipt, and returns the data that it proves (None where that is erased). Raises ValueError where it does not hold."""
    def must(holds, what):
        if not holds:
            raise ValueError(f"the receipt does not hold: {what}")

    receipt = json.loads(text)
    transaction, quant, data = receipt["transaction"], receipt["quant"], None
    leaf = {name: transaction[name] for name in ("id", "kind", "signature", "signer", "timestamp") if name in transaction}
    if "erased" in transaction:
        leaf["commitment"] = transaction["commitment"]
    else:
        # The node serves data as canonical JSON, so these bytes of the receipt are what was hashed.
        canonical = text[text.index('"data":') + 7 : text.rindex(',"salt":"')]
        data = json.loads(canonical)
        leaf["commitment"] = H(bytes.fromhex(transaction["salt"]) + canonical.encode()).hex()
    node = H(b"\0" + jcs(leaf))
    must(node.hex() == transaction["hash"], "the transaction has another hash")

    # The inclusion proof (RFC 9162, section 2.1.3.2).
    position, last = transaction["index"], quant["size"] - 1
    must(0 <= position <= last, "the quant does not reach the transaction")
    for sibling in map(bytes.fromhex, receipt["path"]):
        must(last > 0, "the path is too long")
        if position % 2 or position == last:
            node = H(b"\1" + sibling + node)
            while position % 2 == 0 and position > 0:
                position, last = position // 2, last // 2
        else:
            node = H(b"\1" + node + sibling)
        position, last = position // 2, last // 2
    must(last == 0 and node.hex() == quant["root"], "the path leads to another root")

    header = ("difficulty", "index", "previous_hash", "root", "size", "timestamp", "version")
    digest = H(H(jcs({name: quant[name] for name in header})) + quant["proof"].to_bytes(8, "big"))
    must(digest.hex() == quant["hash"], "the quant has another hash")
    must(int.from_bytes(digest, "big") >> 256 - quant["difficulty"] == 0, "the quant lacks its proof of work")
    if key:
        must(is_signed(receipt, key), "the key has not signed its checkpoint")
    return data


def is_signed(receipt, key):
    """Whether the receipt's checkpoint names its chain and its quant, and has a signature by the key (C2SP signed-note)."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    quant = receipt["quant"]
    root = base64.b64encode(bytes.fromhex(quant["root"])).decode()
    text = f"qbc/{receipt['chain']}\n{quant['size']}\n{root}\nquant {quant['index']} {quant['hash']}\n"
    name, key_id, public = key.split("+", 2)
    note, _, signatures = receipt["checkpoint"].partition("\n\n")
    for line in signatures.splitlines():
        _, signer, signature = line.split(" ")
        signature = base64.b64decode(signature)
        if signer == name and signature[:4].hex() == key_id and note + "\n" == text:
            try:
                Ed25519PublicKey.from_public_bytes(base64.b64decode(public)[1:]).verify(signature[4:], text.encode())
                return True
            except InvalidSignature:
                return False
    return False


if __name__ == "__main__":
    chain, key = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None
    receipt = record(chain, {"order": 1017, "total": "19.90"}, "order-1017")
    print("verified:", json.dumps(verify(receipt, key)), "" if key else "(but not whose chain it is: no key was given)")
    try:
        verify(receipt.replace("19.90", "9.90"), key)
        sys.exit("a forged receipt was taken")
    except ValueError as error:
        print("forged:", error)

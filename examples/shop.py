#!/usr/bin/env python3
"""The audit trail of a small web shop, from the first order to a dispute.

    python3 examples/shop.py http://localhost:5000

Each step of an order is an event on one chain. The shop cannot lose, change or reorder events without being noticed,
its customers hold receipts, and personal data can be erased all the same. Needs requests.
"""
import sys, time
import requests
from client import record, verify

NODE = sys.argv[1]
NAME = f"shop-{time.time_ns()}"
CHAIN = f"{NODE}/chains/{NAME}"


def get(path):
    answer = requests.get(f"{CHAIN}{path}")
    answer.raise_for_status()
    return answer


def event(kind, order, **more):
    """Records a step of an order. Its id names the step, so that a step that is sent twice is there once."""
    return record(CHAIN, {"event": kind, "order": order, **more}, f"{order}-{kind}")


# 1. A chain that takes events of orders and nothing else, and seals what has come every 100 ms.
schema = {
    "type": "object",
    "required": ["event", "order"],
    "properties": {"event": {"enum": ["placed", "paid", "shipped", "returned"]}, "order": {"type": "integer"}},
}
requests.post(f"{NODE}/bang", json={"name": NAME, "difficulty": 0, "schema": schema, "leap": {"every_ms": 100}}).raise_for_status()
wrong = requests.post(f"{CHAIN}/inject", json={"data": {"event": "plcaed", "order": 1}})
print("a typing error is refused:", wrong.status_code, wrong.json()["errors"][0]["detail"])

# 2. Orders. Who lives where stands in one event only, so that it can be erased alone.
event("placed", 1017, customer="Zoë Example", address="1 Main Street", items=[["tea", 2], ["cup", 1]], total="19.90")
paid = event("paid", 1017, total="19.90", reference="card-8812")
event("placed", 1018, customer="Ali Example", address="2 Main Street", items=[["tea", 9]], total="53.10")
event("shipped", 1017, parcel="JD0002")
event("paid", 1017, total="19.90", reference="card-8812")  # Sent twice by mistake: it is there once.

# 3. The customer keeps the receipt of the payment. No shop is needed to check it.
print("the customer's receipt proves:", verify(paid))

# 4. The state of each order is what its events say, in their order.
orders = {}
for transaction in get("/transactions?from=1&limit=10000").json():
    step = transaction["data"]
    orders.setdefault(step["order"], []).append(step["event"])
print("orders:", orders)
assert orders == {1017: ["placed", "paid", "shipped"], 1018: ["placed"]}

# 5. A year later: Zoë asks for her data to be erased. What was proven stays proven.
placed = get("/transactions/by-id/1017-placed").json()["index"]
requests.post(f"{CHAIN}/transactions/{placed}/erase", json={"reason": "request 77, GDPR article 17"}).raise_for_status()
erased = get(f"/transactions/{placed}").json()
assert "data" not in erased and "Main Street" not in str(erased)
assert verify(get(f"/transactions/{placed}/receipt").text) is None
print("erased: event", placed, "is recorded still, and says nothing any more")

# 6. The auditor checks every event, and that the record is complete: indexes have no gaps, and one quant covers them all.
while get("/stats").json()["pooled"]:
    time.sleep(0.05)
size = get("/quants/latest").json()["size"]
for index in range(size):
    verify(get(f"/transactions/{index}/receipt").text)
print("the auditor has verified", size, "transactions")

# 7. The dispute: the shop says that only 9.90 was paid. Its receipt does not hold.
try:
    verify(paid.replace("19.90", "9.90"))
    sys.exit("a forged receipt was taken")
except ValueError as error:
    print("the shop's version:", error)

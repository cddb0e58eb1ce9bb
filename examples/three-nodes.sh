#!/usr/bin/env bash
# Three nodes that keep chains together: one chain is made, written at each node, forked, proved and verified; the node that
# leads it dies, nothing is lost, and it comes back.
# Needs curl and python3. Run it from anywhere: examples/three-nodes.sh
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release --quiet
qbc=$PWD/target/release/qbc
folder=$(mktemp -d)
cd "$folder"

nodes=()
trap 'kill "${nodes[@]}" 2>/dev/null || true; wait; rm -rf "$folder"' EXIT
# Starts a node on a port, and waits until it serves.
start() {
  "$qbc" --port "$1" --log error "${@:2}" >"$1.out" &
  nodes[$1]=$!
  until grep -q listening "$1.out"; do sleep 0.05; done
}
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
json() { python3 -c "import json, sys; value = json.load(sys.stdin); print($1)"; }

say "Three nodes, side by side: the others find the secret of the first in its folder."
start 5700
start 5701 --join localhost:5700
start 5702 --join localhost:5700
until "$qbc" cluster --node 5700 --json | json 'sum(len(g["replicas"]) == 3 for g in value["groups"])' | grep -q 4; do sleep 0.2; done
"$qbc" cluster --node 5702

say "A chain that takes orders only, kept by all three."
curl -fsS --json '{"name": "orders", "schema": {"type": "object", "required": ["order"]}}' localhost:5701/bang
curl -sS --json '{"data": "no order"}' localhost:5702/chains/orders/inject

say "An order at each node, and the last one sent again to another: one place."
for port in 5700 5701 5702; do curl -fsS --json "{\"data\": {\"order\": $port}, \"id\": \"$port\"}" localhost:$port/chains/orders/inject; done
curl -fsS --json '{"data": {"order": 5702}, "id": "5702"}' localhost:5700/chains/orders/inject

say "A leap seals them, and a receipt proves one to anybody."
curl -fsS -X POST localhost:5702/chains/orders/leap
curl -fsS localhost:5700/chains/orders/transactions/2/receipt >receipt.json
"$qbc" verify receipt.json

say "A fork goes on with other rules, and shares all that was."
curl -fsS --json '{"name": "returns", "schema": null}' localhost:5701/chains/orders/fork >/dev/null
curl -fsS --json '{"data": "order 5702 came back"}' localhost:5700/chains/returns/inject >/dev/null
curl -fsS localhost:5702/chains/returns/leap >/dev/null
"$qbc" verify http://localhost:5701/chains/returns

say "The node that leads the chain dies. The others go on."
leader=$(curl -fsS localhost:5700/chains/orders | json '[r["host"] for r in value["replicas"] if r["role"] == "leader"][0].split(":")[1]')
kill -9 "${nodes[$leader]}"
others=(5700 5701 5702)
for port in "${others[@]}"; do
  [ "$port" = "$leader" ] && continue
  # Sent again until it is accepted: with its id it is accepted once.
  until curl -fsS --json '{"data": {"order": 1}, "id": "after"}' "localhost:$port/chains/orders/inject"; do sleep 0.2; done
done

say "It comes back, and has all."
start "$leader"
"$qbc" verify "http://localhost:$leader/chains/orders"
"$qbc" cluster --node "$leader"

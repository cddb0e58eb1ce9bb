#!/usr/bin/env bash
# Three nodes that keep chains together: one chain is made, written at each node, forked, proved and verified; the node that
# leads it dies, nothing is lost, and it comes back.
# Needs curl and python3. Run it from anywhere: examples/three-nodes.sh
# It builds the program unless QBC names one, and takes the three ports from PORT on (5700).
set -euo pipefail
cd "$(dirname "$0")/.."
[ -n "${QBC:-}" ] || cargo build --release --quiet
qbc=${QBC:-$PWD/target/release/qbc}
first=${PORT:-5700} second=$((${PORT:-5700} + 1)) third=$((${PORT:-5700} + 2))
folder=$(mktemp -d)
cd "$folder"

nodes=()
trap 'kill "${nodes[@]}" 2>/dev/null || true; wait; rm -rf "$folder"' EXIT
# Starts a node on a port, and waits until it serves.
start() {
  rm -f "$1.out"
  "$qbc" --port "$1" --log error "${@:2}" >"$1.out" &
  nodes[$1]=$!
  until grep -qs listening "$1.out"; do sleep 0.05; done
}
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
json() { python3 -c "import json, sys; value = json.load(sys.stdin); print($1)"; }

say "Three nodes, side by side: the others find the secret of the first in its folder."
start $first
start $second --join localhost:$first
start $third --join localhost:$first
until "$qbc" cluster --node $first --json | json 'sum(len(g["replicas"]) == 3 for g in value["groups"])' | grep -q 4; do sleep 0.2; done
"$qbc" cluster --node $third

say "A chain that takes orders only, kept by all three."
curl -fsS --json '{"name": "orders", "schema": {"type": "object", "required": ["order"]}}' localhost:$second/bang
curl -sS --json '{"data": "no order"}' localhost:$third/chains/orders/inject

say "An order at each node, and the last one sent again to another: one place."
for port in $first $second $third; do curl -fsS --json "{\"data\": {\"order\": $port}, \"id\": \"$port\"}" localhost:$port/chains/orders/inject; done
curl -fsS --json "{\"data\": {\"order\": $third}, \"id\": \"$third\"}" localhost:$first/chains/orders/inject

say "A leap seals them, and a receipt proves one to anybody."
curl -fsS -X POST localhost:$third/chains/orders/leap
curl -fsS localhost:$first/chains/orders/transactions/2/receipt >receipt.json
"$qbc" verify receipt.json

say "A fork goes on with other rules, and shares all that was."
curl -fsS --json '{"name": "returns", "schema": null}' localhost:$second/chains/orders/fork >/dev/null
curl -fsS --json '{"data": "the last order came back"}' localhost:$first/chains/returns/inject >/dev/null
curl -fsS localhost:$third/chains/returns/leap >/dev/null
"$qbc" verify http://localhost:$second/chains/returns

say "The node that leads the chain dies. The others go on."
leader=$(curl -fsS localhost:$first/chains/orders | json '[r["host"] for r in value["replicas"] if r["role"] == "leader"][0].split(":")[1]')
kill -9 "${nodes[$leader]}"
others=($first $second $third)
for port in "${others[@]}"; do
  [ "$port" = "$leader" ] && continue
  # Sent again until it is accepted: with its id it is accepted once.
  until curl -fsS --json '{"data": {"order": 1}, "id": "after"}' "localhost:$port/chains/orders/inject"; do sleep 0.2; done
done

say "It comes back, and has all."
start "$leader"
"$qbc" verify "http://localhost:$leader/chains/orders"
"$qbc" cluster --node "$leader"

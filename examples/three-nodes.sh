#!/usr/bin/env bash
# Three nodes on one machine: they meet, one chain is made, written, forked, proved and verified, and one node dies.
# Needs curl. Run it from anywhere: examples/three-nodes.sh
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release --quiet
qbc=$PWD/target/release/qbc

nodes=()
trap 'kill "${nodes[@]}" 2>/dev/null || true' EXIT
urls=()
for _ in 1 2 3; do
  log=$(mktemp)
  "$qbc" --port 0 --ephemeral --log warn >"$log" &
  nodes+=($!)
  until grep -q listening "$log"; do sleep 0.05; done
  urls+=("$(sed 's/listening on //' "$log")")
done
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

say "The first meets the others; they tell each other."
curl -fsS --json "{\"host\": \"${urls[1]#http://}\"}" "${urls[0]}/discover" >/dev/null
curl -fsS --json "{\"host\": \"${urls[2]#http://}\"}" "${urls[0]}/discover" >/dev/null
curl -fsS "${urls[2]}/discover"; echo

say "A chain that takes orders only."
curl -fsS --json '{"name": "orders", "schema": {"type": "object", "required": ["order"]}}' "${urls[0]}/bang"; echo
curl -sS --json '{"data": "no order"}' "${urls[0]}/chains/orders/inject"; echo

say "Two orders, and the second is sent twice: one place."
curl -fsS --json '{"data": {"order": 1}}' "${urls[0]}/chains/orders/inject"; echo
for _ in 1 2; do curl -fsS --json '{"data": {"order": 2}, "id": "order-2"}' "${urls[0]}/chains/orders/inject"; echo; done

say "A leap seals them, and a receipt proves it to anybody."
curl -fsS -X POST "${urls[0]}/chains/orders/leap"; echo
receipt=$(mktemp)
curl -fsS "${urls[0]}/chains/orders/transactions/2/receipt" >"$receipt"
"$qbc" verify "$receipt"

say "A fork goes on with other rules, and shares all that was."
curl -fsS --json '{"name": "returns", "schema": null}' "${urls[0]}/chains/orders/fork" >/dev/null
curl -fsS --json '{"data": "order 2 came back"}' "${urls[0]}/chains/returns/inject" >/dev/null
curl -fsS "${urls[0]}/chains/returns/leap" >/dev/null
"$qbc" verify "${urls[0]}/chains/returns"

say "The third node dies, and leaves the list."
kill -9 "${nodes[2]}"
for _ in $(seq 20); do
  live=$(curl -fsS "${urls[0]}/discover")
  [[ $live == *"${urls[2]##*:}"* ]] || break
  sleep 1
done
echo "$live"

#!/usr/bin/env bash
# From nothing to two adapters that answer side by side over HTTP: what examples/quickstart.sh needs, and curl. Ctrl-C ends it sooner.
set -euo pipefail
cd "$(dirname "$0")/.."
work="${CARGO_TARGET_DIR:-target}/quickstart"
[ -f "$work/base.lrk" ] && [ -f "$work/pirate.lrk" ] || bash examples/quickstart.sh

echo "-- building"
cargo build -q --release --features cli,serve
folder="$(mktemp -d)"
trap 'kill "$server" 2>/dev/null || true; rm -rf "$folder"' EXIT
mkdir "$folder/adapters"
cp "$work/notes.lrk" "$folder/adapters"

"${CARGO_TARGET_DIR:-target}/release/lowrank" serve --base "$work/base.lrk" --adapters "$folder/adapters" --port 0 >"$folder/said" &
server=$!
until grep -q . "$folder/said"; do
    kill -0 "$server"
    sleep 0.05
done
cat "$folder/said"
url="$(cut -d ' ' -f 1 "$folder/said")"
url="${url%:}"

# The text of an answer, without what is around it.
ask() {
    curl -sS "$url/chat/completions" -H 'Content-Type: application/json' \
        -d '{"model": "'"$1"'", "messages": [{"role": "user", "content": "How can I sleep better?"}], "max_tokens": 60, "temperature": 0}' |
        python3 -c 'import json, sys; print(f"-- {sys.argv[1]}:", json.load(sys.stdin)["choices"][0]["message"]["content"])' "$1"
}

echo "-- an adapter that comes while the server runs"
cp "$work/pirate.lrk" "$folder/adapters"
curl -sS "$url/load_lora_adapter" -H 'Content-Type: application/json' -d '{"lora_name": "pirate", "lora_path": "pirate.lrk"}'
echo
echo "-- both are asked at once and share passes of the model"
ask notes &
first=$!
ask pirate
wait "$first"
curl -sS "${url%/v1}/metrics" | grep adapters_resident | tail -n 1
kill "$server"
wait "$server"

#!/usr/bin/env bash
# Instructions of each step of a request (benches/micro.rs), beside those on record in benches/instructions.txt. Counted by
# valgrind, so that the machine's load does not matter. It prints the change. `--record` puts the new ones on record;
# `--check` fails if a step takes over 5 % more than on record, provided that compiler, valgrind and processor are those of
# the record.
set -euo pipefail
cd "$(dirname "$0")/.."
record=benches/instructions.txt
times=50000 # what setting up takes differs by some millions from run to run
cpu=$(awk -F': *' '/^model name/ { print $2; exit }' /proc/cpuinfo) # what it can do decides which instructions are taken
tools="# $(rustc --version), $(valgrind --version), $cpu"
binary=$(cargo bench --bench micro --no-run --message-format json 2>/dev/null |
  python3 -c 'import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("target", {}).get("name") == "micro" and message.get("executable"):
        print(message["executable"])')
count() { # STEP TIMES
  valgrind --tool=cachegrind --cache-sim=no --cachegrind-out-file=/dev/null "$binary" --count "$1" "$2" 2>&1 |
    awk '/I *refs:/ { gsub(",", "", $NF); print $NF }'
}
found=$(mktemp)
trap 'rm -f "$found"' EXIT
echo "$tools" > "$found"
slower=0
printf '%-45s %12s %12s %9s\n' step instructions before change
while IFS= read -r step; do
  few=$(count "$step" 100)
  many=$(count "$step" $((100 + times)))
  now=$(((many - few) / times))
  before=$(awk -F'\t' -v step="$step" '$1 == step { print $2 }' "$record" 2>/dev/null || true)
  change=$(awk -v now="$now" -v before="${before:-0}" 'BEGIN { if (before > 0) printf "%+.1f%%", (now / before - 1) * 100; else print "new" }')
  printf '%-45s %12d %12s %9s\n' "$step" "$now" "${before:--}" "$change"
  printf '%s\t%d\n' "$step" "$now" >> "$found"
  if [[ -n $before ]] && ((now * 100 > before * 105)); then slower=$((slower + 1)); fi
done < <("$binary" --names)
case ${1:-} in
  --record) cp "$found" "$record" ;;
  --check)
    if [[ $(head -1 "$record") != "$tools" ]]; then
      echo "the record is of other tools (${tools#\# } here): the change is only reported"
    elif ((slower > 0)); then
      echo "$slower steps take over 5 % more than on record: mend them, or record them with a reason (--record)"
      exit 1
    fi
    ;;
esac

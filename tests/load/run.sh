#!/usr/bin/env bash
# Ten seconds of load while the node is reloaded fifty times, one in five with a broken file; then ten seconds in
# which one of two origins is killed. Prints what wrk and the node saw; fails if any request did.
set -euo pipefail
cd "$(dirname "$0")/../.."
seawall=target/release/seawall
dir=$(mktemp -d)
pids=()
finish() { for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done; rm -rf "$dir"; }
trap finish EXIT

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

origin() { # NAME PORT: an nginx with one cacheable and one uncacheable file
  mkdir -p "$dir/$1/www/static" "$dir/$1/www/live"
  head -c 1024 /dev/zero | tr '\0' x | tee "$dir/$1/www/static/a" > "$dir/$1/www/live/a"
  cat > "$dir/$1/nginx.conf" <<CONF
daemon off; pid $dir/$1/pid; error_log $dir/$1/error.log; worker_processes 1; events { worker_connections 1024; }
http { access_log off; client_body_temp_path $dir/$1/t1; proxy_temp_path $dir/$1/t2; fastcgi_temp_path $dir/$1/t3;
  uwsgi_temp_path $dir/$1/t4; scgi_temp_path $dir/$1/t5; keepalive_requests 1000000;
  server { listen 127.0.0.1:$2; root $dir/$1/www; location /static/ { expires 1h; } location /healthz { return 200; } } }
CONF
  chmod -R a+rX "$dir"
  PATH="$PATH:/usr/sbin" nginx -e "$dir/$1/error.log" -c "$dir/$1/nginx.conf" &
  pids+=($!)
  eval "$1_pid=$!"
}

one=$(free_port); two=$(free_port); port=$(free_port); admin=$(free_port)
origin one "$one"; origin two "$two"

config() { # NAME
  cat <<CONF
[node]
name = "$1"
[[listen]]
address = "127.0.0.1:$port"
[admin]
address = "127.0.0.1:$admin"
[log]
access = "off"
[limits]
max_requests_per_connection = 100000000
[pool.app]
origins = ["127.0.0.1:$one", "127.0.0.1:$two"]
health = { path = "/healthz", interval = "100ms", fall = 2 }
[site.all]
hosts = ["*"]
[[site.all.route]]
path = "/static/*"
pool = "app"
cache = { mode = "respect" }
[[site.all.route]]
path = "/*"
pool = "app"
CONF
}

config n0 > "$dir/seawall.toml"
"$seawall" run --config "$dir/seawall.toml" 2> "$dir/log" &
pids+=($!)
until curl -sf "http://127.0.0.1:$admin/readyz" > /dev/null; do sleep 0.05; done

load() { # PATH: ten seconds of it in the background
  wrk -t1 -c32 -d10s "http://127.0.0.1:$port$1" > "$dir/wrk$(echo "$1" | tr / -)" &
  pids+=($!); loads+=($!)
}
verdict() {
  for pid in "${loads[@]}"; do wait "$pid"; done
  for file in "$dir"/wrk*; do
    grep -E "requests in|Socket errors|Non-2xx" "$file" | sed "s|^|  ${file##*/wrk-}: |"
    if grep -qE "Socket errors|Non-2xx" "$file"; then echo "FAILED: requests failed"; exit 1; fi
    rm "$file"
  done
}

echo "50 reloads in 10 s of load, one in five broken:"
loads=(); load /static/a; load /live/a
refused=0
for i in $(seq 50); do
  if [ $((i % 5)) = 0 ]; then echo broken > "$dir/new"; else config "n$i" > "$dir/new"; fi
  mv "$dir/new" "$dir/seawall.toml"
  curl -sf -X POST "http://127.0.0.1:$admin/v1/reload" > /dev/null || refused=$((refused + 1))
  sleep 0.15
done
verdict
echo "  refused reloads: $refused, generation now: $(curl -s "http://127.0.0.1:$admin/v1/status" \
  | grep -o '"generation":[0-9]*' | head -1 | cut -d: -f2)"

echo "one of two origins killed in 10 s of load:"
loads=(); load /static/a; load /live/a
sleep 3
# The workers with the master: it would replace them, and without it they would go on.
# shellcheck disable=SC2046,SC2154  # one_pid is set by `origin`
kill -9 "$one_pid" $(pgrep -P "$one_pid")
sleep 2
curl -s "http://127.0.0.1:$admin/metrics" | grep '^seawall_origin_up' | sed 's/^/  /' | tee "$dir/up"
verdict
grep -q ' 0$' "$dir/up" || { echo "FAILED: the killed origin is still up"; exit 1; }

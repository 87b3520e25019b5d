#!/usr/bin/env bash
# CPU time per memory hit of 1 KiB over HTTP/1.1 keep-alive: Seawall (access log and metrics on) beside nginx serving
# the same file from its page cache with its log on. Interleaved rounds, one worker each pinned to one core, wrk on the
# other; medians. What counts is CPU time per request from /proc: requests per second are noisy on shared machines.
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${ROUNDS:-5} seconds=${SECONDS_EACH:-3}
dir=$(mktemp -d)
pids=()
finish() { for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done; rm -rf "$dir"; }
trap finish EXIT
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

nginx_port=$(free_port); seawall_port=$(free_port)
mkdir "$dir/www"; head -c 1024 /dev/zero | tr '\0' x > "$dir/www/a"
cat > "$dir/nginx.conf" <<CONF
daemon off; master_process off; pid $dir/pid; error_log $dir/error.log; events { worker_connections 1024; }
http { access_log $dir/access.log combined buffer=64k flush=1s; keepalive_requests 100000000; open_file_cache max=100;
  client_body_temp_path $dir/t1; proxy_temp_path $dir/t2; fastcgi_temp_path $dir/t3; uwsgi_temp_path $dir/t4;
  scgi_temp_path $dir/t5; sendfile on; tcp_nopush on;
  server { listen 127.0.0.1:$nginx_port; root $dir/www; location / { expires 1h; } } }
CONF
cat > "$dir/seawall.toml" <<CONF
[node]
threads = 1
[[listen]]
address = "127.0.0.1:$seawall_port"
[log]
access = "$dir/seawall.log"
format = "combined"
[limits]
max_requests_per_connection = 100000000
[pool.app]
origins = ["127.0.0.1:$nginx_port"]
[site.all]
hosts = ["*"]
[[site.all.route]]
path = "/*"
pool = "app"
cache = { mode = "respect" }
CONF
chmod -R a+rX "$dir"
PATH="$PATH:/usr/sbin" taskset -c 0 nginx -e "$dir/error.log" -c "$dir/nginx.conf" & nginx=$!
taskset -c 0 target/release/seawall run --config "$dir/seawall.toml" 2> "$dir/log" & seawall=$!
pids+=("$nginx" "$seawall")
until curl -sf -o /dev/null "http://127.0.0.1:$seawall_port/a"; do sleep 0.05; done

ticks() { awk '{ print $14 + $15 }' "/proc/$1/stat"; }
measure() { # NAME PID PORT
  local before requests
  before=$(ticks "$2")
  requests=$(taskset -c 1 wrk -t1 -c16 -d"${seconds}s" "http://127.0.0.1:$3/a" | awk '/requests in/ { print $1 }')
  echo "$requests $(($(ticks "$2") - before))" | awk -v hz="$(getconf CLK_TCK)" '{ printf "%.2f\n", $2 / hz * 1e6 / $1 }' \
    >> "$dir/$1.us"
}
for _ in $(seq "$rounds"); do measure nginx "$nginx" "$nginx_port"; measure seawall "$seawall" "$seawall_port"; done
median() { sort -n "$1" | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
n=$(median "$dir/nginx.us"); s=$(median "$dir/seawall.us")
grep -m1 'model name' /proc/cpuinfo | sed 's/.*: /processor: /'
echo "nginx:   $n us of CPU per request (rounds: $(tr '\n' ' ' < "$dir/nginx.us"))"
echo "seawall: $s us of CPU per request (rounds: $(tr '\n' ' ' < "$dir/seawall.us"))"
awk -v s="$s" -v n="$n" 'BEGIN { printf "ratio:   %.2f\n", s / n }'

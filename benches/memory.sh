#!/usr/bin/env bash
# Resident memory of the node: a 2 GiB file through slices (once from end to end, then at random by 50 clients), and a
# memory tier of 256 MiB under a churn of a million objects of mixed size. Fails if the former takes more than 64 MiB above
# idle, or the latter more than what docs/storage.md says it may. SEAWALL=... measures another binary.
set -euo pipefail
cd "$(dirname "$0")/.."
seawall=${SEAWALL:-target/release/seawall}
dir=$(mktemp -d -p "${SEAWALL_BENCH_DIR:-/tmp}")
pids=()
finish() { for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done; wait 2>/dev/null || true; rm -rf "$dir"; }
trap finish EXIT
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
resident() { awk '/VmRSS/ { print int($2 / 1024) }' "/proc/$1/status"; } # MiB
highest() { awk '/VmHWM/ { print int($2 / 1024) }' "/proc/$1/status"; }

origin=$(free_port); port=$(free_port)
mkdir "$dir/www"
head -c $((2 << 30)) /dev/urandom > "$dir/www/film"
for number in $(seq 0 63); do # 1 KiB to 128 KiB
  head -c "$(awk -v n="$number" 'BEGIN { print int(1024 * 2 ^ (n / 9)) }')" /dev/urandom > "$dir/www/$number"
done
cat > "$dir/nginx.conf" <<CONF
daemon off; pid $dir/pid; error_log $dir/error.log; worker_processes 1; events { worker_connections 1024; }
http { access_log off; client_body_temp_path $dir/t1; proxy_temp_path $dir/t2; fastcgi_temp_path $dir/t3;
  uwsgi_temp_path $dir/t4; scgi_temp_path $dir/t5; keepalive_requests 100000000; sendfile on;
  server { listen 127.0.0.1:$origin; root $dir/www; expires 1h;
    location /film {} location / { rewrite ^/([0-9]+)/ /\$1 break; } } }
CONF
chmod -R a+rX "$dir"
PATH="$PATH:/usr/sbin" nginx -e "$dir/error.log" -c "$dir/nginx.conf" & pids+=($!)

start() { # MEMORY DISK ROUTE
  cat > "$dir/seawall.toml" <<CONF
[node]
state_dir = "state"
[[listen]]
address = "127.0.0.1:$port"
[log]
access = "off"
[limits]
max_requests_per_connection = 100000000
[cache.memory]
max_size = "$1"
max_object = "$2"
fill_buffer = "${5:-128MiB}"
$3
[pool.app]
origins = ["127.0.0.1:$origin"]
[site.all]
hosts = ["*"]
[[site.all.route]]
path = "/*"
pool = "app"
cache = { mode = "respect"$4 }
CONF
  "$seawall" run --config "$dir/seawall.toml" 2> "$dir/log" & node=$!
  pids+=("$node")
  until curl -sf -o /dev/null "http://127.0.0.1:$port/0"; do sleep 0.05; done
  idle=$(resident "$node")
}
stop() { kill "$node"; wait "$node" || true; }

start 16MiB 1MiB "[cache.disk]
path = \"cache\"
max_size = \"8GiB\"
write_buffer = \"16MiB\"" ', slice = "4MiB"' 8MiB
echo "slices: idle $idle MiB"
curl -sf "http://127.0.0.1:$port/film" | cmp - "$dir/www/film"
echo "slices: 2 GiB read from the origin through the node, byte for byte: at most $(highest "$node") MiB resident"
python3 - "$port" "$dir/www/film" <<'PYTHON'
import random, socket, sys, threading
port, path = int(sys.argv[1]), sys.argv[2]
size, failed = 2 << 30, []
def read(seed):
    chance, film = random.Random(seed), open(path, "rb")
    stream = socket.create_connection(("127.0.0.1", port)); reply = stream.makefile("rb")
    for _ in range(40):
        first = chance.randrange(size); last = min(size - 1, first + chance.randrange(1 << 20))
        stream.sendall(f"GET /film HTTP/1.1\r\nHost: a\r\nRange: bytes={first}-{last}\r\n\r\n".encode())
        status = reply.readline()
        while reply.readline() != b"\r\n": pass
        film.seek(first); wanted = film.read(last - first + 1)
        if b" 206 " not in status or reply.read(len(wanted)) != wanted: failed.append((first, last, status))
clients = [threading.Thread(target=read, args=(seed,)) for seed in range(50)]
for client in clients: client.start()
for client in clients: client.join()
sys.exit(f"wrong answers: {failed[:3]}" if failed else 0)
PYTHON
most=$(highest "$node")
echo "slices: 2,000 random ranges by 50 clients, byte for byte: at most $most MiB resident, $((most - idle)) above idle"
[ $((most - idle)) -le 64 ] || { echo "that is more than 64 MiB above idle"; exit 1; }
stop

start 256MiB 8MiB "" ""
cat > "$dir/churn.lua" <<'LUA'
local thread_number = 0
function setup(thread) thread:set("id", thread_number); thread_number = thread_number + 1 end
function init() math.randomseed(id); n = 0 end
function request() n = n + 1; return wrk.format("GET", string.format("/%d/%d-%d", math.random(0, 63), id, n)) end
function done(summary) io.write(string.format("churn: %d objects, %d errors\n", summary.requests, summary.errors.status + summary.errors.read + summary.errors.timeout)) end
LUA
for _ in $(seq 40); do # bounded: some 50,000 objects each
  wrk -t2 -c32 -d5s -s "$dir/churn.lua" "http://127.0.0.1:$port/" | grep churn
  now=$(resident "$node"); echo "churn: $now MiB resident"
  rounds=$((${rounds:-0} + 1))
  [ "$rounds" -lt "${CHURN_ROUNDS:-20}" ] || break
done
most=$(highest "$node")
echo "churn: at most $most MiB resident (idle $idle, memory tier 256, fill buffer 128)"
[ "$most" -le $((idle + 256 + 128)) ] || { echo "that is more than it may be"; exit 1; }

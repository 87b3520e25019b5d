#!/bin/bash
# The package under its real service manager, in a Debian machine of its own: run.sh [BINARY]. Each check prints a line with its
# figures. Where no machine can be booted it says so, and is skipped.
set -u
here=$(cd "$(dirname "$0")" && pwd) root=$(cd "$(dirname "$0")/../.." && pwd)
binary=$(readlink -f "${1:-$root/target/debug/seawall}")
machine=$here/machine.sh name=seawall-$$
work=$(mktemp -d) failed=0 checks=0
export SEAWALL_MACHINE_SIZE=3g

"$machine" build
case $? in
0) ;;
77) echo "tests/deploy: SKIPPED, no machine can be booted here"; exit 0 ;;
*) exit 1 ;;
esac

end() { "$machine" stop "$name"; rm -rf "$work"; }
trap end EXIT
trap 'exit 130' INT TERM

in_machine() { "$machine" run "$name" "$@"; }
sh_in() { in_machine sh -c "$1"; }
put() { sh_in "cat > '$1'"; } # PATH, from standard input
pass() { checks=$((checks + 1)); echo "ok    $*"; }
miss() { checks=$((checks + 1)); failed=$((failed + 1)); echo "FAILED $*"; }
# verdict WHAT CONDITION...: a test(1) with a line.
verdict() { local what=$1; shift; if test "$@"; then pass "$what"; else miss "$what [$*]"; fi; }
has() { case $2 in *"$3"*) pass "$1" ;; *) miss "$1: no \"$3\" in: $2" ;; esac; }
lacks() { case $2 in *"$3"*) miss "$1: \"$3\" in: $2" ;; *) pass "$1" ;; esac; }
journal() { in_machine journalctl -u seawall --no-pager -o short-monotonic "$@"; }
get() { "$machine" outside "$name" curl -s -o /dev/null -w '%{http_code}' --max-time 10 "$1"; }
# Waits for a command to succeed, for ten seconds.
until_ok() { for _ in $(seq 200); do "$@" && return 0; sleep 0.05; done; return 1; }
serves_503() { [ "$(get http://10.77.0.2/)" = 503 ]; }
serves() { [ "$(get http://10.77.0.2/load)" = 200 ]; }

# Load from outside while a command runs: under_load WORDS COMMAND...; its last line is in $figures, and the command's status in $status.
under_load() {
  local words=$1; shift
  mkfifo "$work/until" 2>/dev/null
  # shellcheck disable=SC2086
  "$machine" outside "$name" python3 "$here/load.py" 10.77.0.2 80 $words < "$work/until" > "$work/figures" & local load=$!
  exec 7> "$work/until"
  sleep 1
  "$@" > "$work/output" 2>&1; status=$?
  until_ok serves
  sleep "${AFTER:-1}"
  exec 7>&-
  wait $load
  figures=$(cat "$work/figures") output=$(cat "$work/output")
}
figure() { sed -n "s/.*\b$1=\([^ ]*\).*/\1/p" <<< "$figures"; }
no_refusals() { verdict "$1: $figures" "$(figure refused)" = 0 -a "$(figure failed)" = 0; }

# --- packages ---------------------------------------------------------------
first=$("$root/systemd/debian/build" "$binary" "$work" 0.1.0) && second=$("$root/systemd/debian/build" "$binary" "$work" 0.1.1) || exit 1

# --- without systemd ----------------------------------------------------------
"$machine" start "$name" || exit 1
"$machine" copy "$name" "$first" /root/first.deb && "$machine" copy "$name" "$second" /root/second.deb || exit 1
"$machine" copy "$name" "$here/origin.py" /root/origin.py
# The machine's own root with nothing in /run, and without what makes users from files.
sh_in 'mkdir -p /run/up /run/plain && mount -t tmpfs none /run/up && mkdir /run/up/upper /run/up/work
  mount -t overlay -o lowerdir=/,upperdir=/run/up/upper,workdir=/run/up/work none /run/plain && rm /run/plain/usr/bin/systemd-sysusers
  chroot /run/plain dpkg -i /root/first.deb' > "$work/output" 2>&1
verdict "installs without systemd" $? = 0
sh_in 'chroot /run/plain getent passwd seawall > /dev/null && test -f /run/plain/etc/seawall/sites.d/default.toml'
verdict "and has made its user and its files" $? = 0
sh_in 'umount /run/plain; umount /run/up'

# --- installation ---------------------------------------------------------------
output=$(sh_in 'dpkg -i /root/first.deb 2>&1')
has "an installation says what to do" "$output" "systemctl start seawall"
verdict "and starts nothing" "$(in_machine systemctl is-active seawall)" = inactive
verdict "and is enabled" "$(in_machine systemctl is-enabled seawall)" = enabled
in_machine systemd-run --quiet --unit origin python3 /root/origin.py 127.0.0.1 3000
put /etc/seawall/sites.d/default.toml << 'END'
[pool.app]
origins = ["127.0.0.1:3000"]
[site.default]
hosts = ["*"]
[[site.default.route]]
path = "/*"
pool = "app"
cache = { mode = "respect" }
END
# On a real disk: of a file in memory or behind an overlay the kernel cannot say whether reading it would wait.
in_machine mount --bind /disk /var/cache/seawall
put /etc/seawall/sites.d/disk.toml << 'END'
[cache.disk]
path = "/var/cache/seawall"
max_size = "1GiB"
END
in_machine systemctl start seawall
verdict "it starts" $? = 0
verdict "and serves" "$(get http://10.77.0.2/)" = 200
has "systemd knows what it does" "$(in_machine systemctl show seawall -p StatusText)" "serving 1 site, configuration 1"
level=$(in_machine systemd-analyze security seawall | sed -n 's/.*exposure level for seawall.service: //p')
verdict "its exposure is $level" "$(echo "$level" | tr -dc '0-9')" -lt 20
worker() { in_machine sh -c 'pgrep -P "$(systemctl show seawall -p MainPID --value)"'; }

# --- the sandbox ------------------------------------------------------------------
get http://10.77.0.2/big > /dev/null
until_ok sh_in 'ls /var/cache/seawall/*/*/* > /dev/null 2>&1 || find /var/cache/seawall -size +19M | grep -q .'
in_machine systemctl restart seawall
for _ in 1 2 3; do get http://10.77.0.2/big > /dev/null; done
sh_in "strace -f -q -e trace=sendfile,preadv2,openat2 -o /tmp/calls -p $(worker) & trap 'kill %1' EXIT
  sleep 1; for i in 1 2 3 4 5; do curl -s -o /dev/null http://127.0.0.1/big; done" > /dev/null 2>&1
calls=$(sh_in 'for call in sendfile preadv2 openat2; do echo "$call=$(grep -c "$call(" /tmp/calls)"; done' | tr '\n' ' ')
lacks "a large hit on disk is sent by sendfile: $calls" "$calls" "sendfile=0"
lacks "and opened at once" "$calls" "openat2=0"

# --- reload -----------------------------------------------------------------------
put /etc/seawall/sites.d/more.toml << 'END'
[[listen]]
address = "0.0.0.0:8080"
END
output=$(in_machine systemctl reload seawall 2>&1)
verdict "a reload works" $? = 0
verdict "and opens a new [[listen]]" "$(get http://10.77.0.2:8080/)" = 200
has "and systemd is told" "$(in_machine systemctl show seawall -p StatusText)" "configuration 2"
sh_in 'echo "hostz = 1" >> /etc/seawall/sites.d/more.toml'
in_machine systemctl reload seawall > /dev/null 2>&1
verdict "a reload of a mistake fails" $? != 0
verdict "and the node goes on" "$(in_machine systemctl is-active seawall)/$(get http://10.77.0.2:8080/)" = active/200
sleep 0.5
verdict "the refusal is in the journal once, as an error" "$(journal -p err | grep -c 'the configuration is refused and nothing')" = 1
has "with its line" "$(journal -p err)" "more.toml:3:1"
has "and systemctl status has the verdict" "$(in_machine systemctl show seawall -p StatusText)" "1 mistake and are not in force"
in_machine systemd-run --quiet --unit taken python3 /root/origin.py 0.0.0.0 9999
printf '[[listen]]\naddress = "0.0.0.0:9999"\n' | put /etc/seawall/sites.d/more.toml
in_machine systemctl reload seawall > /dev/null 2>&1
verdict "a reload to a port that is taken fails" $? != 0
has "and says where" "$(journal -p err)" "cannot listen on 0.0.0.0:9999: Address already in use"

# --- upgrades that must not happen ---------------------------------------------------
before=$(in_machine systemctl show seawall -p MainPID --value)
output=$(sh_in 'dpkg -i /root/second.deb 2>&1'); status=$?
verdict "an upgrade with a port that is taken fails" "$status" != 0
has "and says so" "$output" "cannot listen on 0.0.0.0:9999"
printf '[[listen]]\naddres = "0.0.0.0:9999"\n' | put /etc/seawall/sites.d/more.toml
output=$(sh_in 'dpkg --configure seawall 2>&1'); status=$?
verdict "an upgrade with a mistake on disk fails" "$status" != 0
has "and says so" "$output" 'unknown key "addres"'
verdict "and the old process goes on" "$(in_machine systemctl show seawall -p MainPID --value)/$(get http://10.77.0.2/)" = "$before/200"
in_machine systemctl stop taken; in_machine rm /etc/seawall/sites.d/more.toml
output=$(sh_in 'dpkg --configure seawall 2>&1'); status=$?
verdict "once mended it is configured" "$status" = 0

# --- ends and restarts under load ------------------------------------------------------
AFTER=13 under_load "slow tunnel" in_machine systemctl restart seawall
no_refusals "a restart with a slow download and a tunnel"
has "the download comes whole" "$figures" "slow download: whole"
has "the tunnel stays open" "$figures" "tunnel: open to the end"
under_load "" in_machine dpkg -i /root/first.deb
no_refusals "a downgrade"
AFTER=13 under_load "slow tunnel" in_machine dpkg -i /root/second.deb
no_refusals "an upgrade with a slow download and a tunnel"
verdict "and dpkg is content" "$status" = 0
kill_often() {
  for _ in 1 2 3 4 5 6; do sh_in 'systemctl kill --kill-whom=main -s KILL seawall'; until_ok serves; done
}
under_load "" kill_often
verdict "killed six times: $figures" "$(figure refused)" = 0
verdict "and runs" "$(in_machine systemctl is-active seawall)" = active
sh_in 'mkdir -p /run/systemd/system/seawall.service.d; printf "[Service]\nWatchdogSec=3s\n" > /run/systemd/system/seawall.service.d/test.conf; systemctl daemon-reload; systemctl restart seawall'
until_ok serves
stop_it() { sh_in "kill -STOP $(worker)"; }
under_load "" stop_it
verdict "stopped by SIGSTOP, with a watchdog of 3 s: $figures" "$(figure refused)" = 0
sh_in 'rm /run/systemd/system/seawall.service.d/test.conf; systemctl daemon-reload; systemctl restart seawall'

# --- restarts at awkward moments --------------------------------------------------------
main_pid() { in_machine systemctl show seawall -p MainPID --value; }
printf '[[listen]]\naddress = "unix:/run/seawall/http.sock"\n' | put /etc/seawall/sites.d/more.toml
in_machine systemctl reload seawall; in_machine rm /run/seawall/http.sock
in_machine systemctl restart seawall; status=$?
by_socket=$(in_machine curl -s -o /dev/null -w '%{http_code}' --max-time 10 --unix-socket /run/seawall/http.sock http://10.77.0.2/)
verdict "a restart makes a Unix socket anew whose file has gone" "$status/$by_socket/$(get http://10.77.0.2/)" = 0/200/200
sh_in 'rm /run/seawall/http.sock; setpriv --reuid seawall --regid seawall --clear-groups python3 -c "import socket; socket.socket(socket.AF_UNIX).bind(\"/run/seawall/http.sock\")"'
in_machine systemctl restart seawall; status=$?
by_socket=$(in_machine curl -s -o /dev/null -w '%{http_code}' --max-time 10 --unix-socket /run/seawall/http.sock http://10.77.0.2/)
verdict "or in whose place another one is" "$status/$by_socket" = 0/200
in_machine rm /etc/seawall/sites.d/more.toml
in_machine systemctl restart seawall
verdict "and removes one that is not wanted any more" -z "$(sh_in 'ls /run/seawall/http.sock 2>/dev/null')"
# A name that nobody answers for: a reload, and a start, wait for it for two seconds.
in_machine systemd-run --quiet --unit mute python3 -c 'import socket, time; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("127.0.0.9", 53)); time.sleep(300)'
echo 'nameserver 127.0.0.9' | put /etc/resolv.conf
printf '[[listen]]\naddress = "0.0.0.0:8200"\n[pool.slow]\norigins = ["slow.example.com:80"]\n' | put /etc/seawall/sites.d/more.toml
restart_soon() { sleep 0.4; in_machine systemctl restart seawall; }
AFTER=13 under_load "slow" restart_soon
no_refusals "a restart in the middle of a reload"
verdict "which succeeds" "$status/$(get http://10.77.0.2:8200/)" = 0/200
lacks "and says nothing of addresses in use" "$(journal --since=-30s)" "cannot listen"
before=$(main_pid); in_machine systemctl restart --no-block seawall
until_ok sh_in "[ \"\$(systemctl show seawall -p MainPID --value)\" != $before ]"
for signal in USR1 HUP USR1; do sh_in "kill -$signal \$(systemctl show seawall -p MainPID --value)"; done
starting=$(main_pid)
until_ok serves
verdict "signals while it starts do not end it" "$(main_pid)" = "$starting"
in_machine systemctl restart --no-block seawall; sleep 0.3
output=$(sh_in 'dpkg -i /root/first.deb 2>&1'); status=$?
until_ok serves
verdict "an upgrade while it starts runs the new program" "$status/$(sh_in "readlink /proc/$(main_pid)/exe")" = 0//usr/bin/seawall
in_machine dpkg -i /root/second.deb > /dev/null 2>&1
in_machine rm /etc/seawall/sites.d/more.toml; in_machine systemctl stop mute; : | put /etc/resolv.conf
in_machine systemctl restart seawall

# --- keys -----------------------------------------------------------------------------
sh_in 'cd /etc/ssl/private && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 9 -subj /CN=one.example -addext subjectAltName=DNS:one.example -keyout one.key -out /etc/ssl/certs/one.pem 2>/dev/null; chmod 600 one.key'
printf '[[listen]]\naddress = "0.0.0.0:443"\ntls = true\n[[certificate]]\ncert = "/etc/ssl/certs/one.pem"\nkey = "/etc/ssl/private/one.key"\n' | put /etc/seawall/sites.d/tls.toml
in_machine systemctl reload seawall > /dev/null 2>&1
verdict "a key that the node may not read is refused" $? != 0
has "and named, with what to do" "$(journal -p err)" "/etc/ssl/private/one.key"
output=$(in_machine seawall check --as seawall /etc/seawall/seawall.toml 2>&1); status=$?
verdict "check as the node's user sees it" "$status" != 0
output=$(in_machine seawall check /etc/seawall/seawall.toml 2>&1); status=$?
verdict "root's own check of the service's file, too" "$status" != 0
in_machine seawall check --as root /etc/seawall/seawall.toml > /dev/null 2>&1
verdict "as root it is well" $? = 0
sh_in 'adduser --quiet seawall ssl-cert; chgrp ssl-cert /etc/ssl/private/one.key; chmod 640 /etc/ssl/private/one.key; systemctl restart seawall'
serial() { "$machine" outside "$name" sh -c 'echo | openssl s_client -connect 10.77.0.2:443 -servername one.example 2>/dev/null | openssl x509 -noout -subject'; }
has "by the group ssl-cert it works" "$(serial)" "one.example"
verdict "what cannot be watched is told once" "$(journal "_PID=$(worker)" | grep -c 'cannot be watched')" -le 1
sh_in 'gpasswd --delete seawall ssl-cert; chgrp root /etc/ssl/private/one.key; chmod 600 /etc/ssl/private/one.key
  mkdir -p /etc/systemd/system/seawall.service.d; printf "[Service]\nLoadCredential=one.key:/etc/ssl/private/one.key\nLoadCredential=one.pem:/etc/ssl/certs/one.pem\n" > /etc/systemd/system/seawall.service.d/key.conf; systemctl daemon-reload'
printf '[[listen]]\naddress = "0.0.0.0:443"\ntls = true\n[[certificate]]\ncert = "/run/credentials/seawall.service/one.pem"\nkey = "/run/credentials/seawall.service/one.key"\n' | put /etc/seawall/sites.d/tls.toml
in_machine systemctl restart seawall
has "by a credential it works" "$(serial)" "one.example"
sh_in 'cd /etc/ssl/private && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 9 -subj /CN=two.example -addext subjectAltName=DNS:one.example -keyout one.key -out /etc/ssl/certs/one.pem 2>/dev/null'
in_machine systemctl reload seawall; status=$?
verdict "a reload takes a renewed credential" "$status/$(serial)" = "0/subject=CN = two.example"
in_machine rm /etc/seawall/sites.d/tls.toml

# --- what the sandbox keeps out, sockets of a unit, rotation ----------------------------
sed 's#/var/cache/seawall#/srv/cache#' << 'END' | put /etc/seawall/sites.d/disk.toml
[cache.disk]
path = "/var/cache/seawall"
max_size = "1GiB"
END
sh_in 'mkdir -p /srv/cache; chown seawall /srv/cache'
output=$(in_machine seawall check /etc/seawall/seawall.toml 2>&1)
has "check tells what the sandbox does not let through" "$output" "ReadWritePaths=-/srv/cache"
in_machine systemctl restart seawall
has "and so does the node" "$(until_ok sh_in 'journalctl -u seawall -p err | grep -q "out of service"'; journal -p err | tail -3)" "ReadWritePaths=-/srv/cache"
sh_in 'chown root /srv/cache'
output=$(in_machine seawall check /etc/seawall/seawall.toml 2>&1)
has "and what the node's user may not write" "$output" "seawall may not write there: Permission denied"
in_machine rm /etc/seawall/sites.d/disk.toml
# Below /home and in the environment: as the hints of check have it.
sh_in 'mkdir -p /home/acme/www && echo from home > /home/acme/www/index.html'
printf '[pool.app]\norigins = ["127.0.0.1:3000"]\n[site.home]\nhosts = ["home.example"]\nresponse = { set = { X-Key = "${API_KEY}" } }\n[[site.home.route]]\npath = "/*"\nfiles = "/home/acme/www"\n' | sed '1,2d' | put /etc/seawall/sites.d/home.toml
output=$(in_machine seawall check /etc/seawall/seawall.toml 2>&1)
verdict "a variable that is missing is one mistake" "$(echo "$output" | grep -c 'API_KEY in the environment')/$(echo "$output" | grep -c 'hint')" = 1/1
sh_in 'mkdir -p /etc/systemd/system/seawall.service.d; echo "API_KEY = \"k 1\"" > /etc/seawall/env; chmod 600 /etc/seawall/env
  printf "[Service]\nEnvironmentFile=/etc/seawall/env\n" > /etc/systemd/system/seawall.service.d/env.conf; systemctl daemon-reload'
output=$(in_machine seawall check /etc/seawall/seawall.toml 2>&1); status=$?
verdict "a variable of the unit's is none" "$status" = 0
has "a directory below /home is told" "$output" 'BindReadOnlyPaths=/home/acme/www'
sh_in 'printf "[Service]\nProtectHome=tmpfs\nBindReadOnlyPaths=/home/acme/www\n" > /etc/systemd/system/seawall.service.d/home.conf; systemctl daemon-reload; systemctl restart seawall'
until_ok serves
has "and served after what the hint says" "$("$machine" outside "$name" curl -s -m 5 -i -H 'Host: home.example' http://10.77.0.2/)" "from home"
has "with the variable" "$("$machine" outside "$name" curl -s -m 5 -i -H 'Host: home.example' http://10.77.0.2/)" "x-key: k 1"
output=$(in_machine seawall check /etc/seawall/seawall.toml 2>&1)
verdict "and check has nothing more to say" "$(echo "$output" | grep -c warning)" = 0
sh_in 'dpkg -i /root/first.deb > /dev/null 2>&1'; status=$?
verdict "an upgrade knows the unit's environment" "$status" = 0
sh_in 'dpkg -i /root/second.deb; rm -r /etc/seawall/sites.d/home.toml /etc/seawall/env /etc/systemd/system/seawall.service.d/env.conf /etc/systemd/system/seawall.service.d/home.conf; systemctl daemon-reload; systemctl restart seawall' > /dev/null 2>&1
until_ok serves
sh_in 'systemctl stop seawall && systemctl enable --quiet --now seawall.socket && systemctl stop seawall'
verdict "with seawall.socket a client starts the node" "$(get http://10.77.0.2/)" = 200
verdict "which has taken its sockets" "$(journal --since=-10s | grep -c 'no \[\[listen\]\] has')" = 0
sh_in 'systemctl disable --quiet --now seawall.socket; systemctl restart seawall'
until_ok serves
sh_in 'logrotate -f /etc/logrotate.d/seawall'; status=$?
get http://10.77.0.2/rotated > /dev/null
until_ok sh_in 'grep -q rotated /var/log/seawall/access.log'
verdict "the log is rotated" "$status/$?" = 0/0
printf '[pool.app]\norigins = ["nowhere.invalid:3000"]\n[site.default]\nhosts = ["*"]\n[[site.default.route]]\npath = "/*"\npool = "app"\n' | put /etc/seawall/sites.d/default.toml
begun=$(date +%s%N); in_machine systemctl restart seawall; status=$?
took=$((($(date +%s%N) - begun) / 1000000))
verdict "a start with an origin that does not resolve takes $took ms" "$status" = 0 -a "$took" -lt 10000
verdict "and answers" "$(get http://10.77.0.2/)" = 503
"$machine" reboot "$name"; until_ok serves_503
verdict "booted again with it, it answers" "$(get http://10.77.0.2/)" = 503
verdict "and is active" "$(in_machine systemctl is-active seawall)" = active

# --- the end ------------------------------------------------------------------------------
begun=$(date +%s%N); in_machine systemctl stop seawall; took=$((($(date +%s%N) - begun) / 1000000))
verdict "a stop takes $took ms" "$took" -lt 3000
in_machine systemctl start seawall
in_machine systemctl stop seawall; in_machine umount -q /var/cache/seawall; in_machine systemctl start seawall
sh_in 'dpkg -r seawall > /dev/null 2>&1'; status=$?
verdict "it is removed, and its state is kept" "$status/$(sh_in 'ls -d /var/lib/seawall /etc/seawall/seawall.toml' | wc -l)" = 0/2
sh_in 'dpkg -P seawall > /dev/null 2>&1'; status=$?
left=$(sh_in 'ls -d /etc/seawall /var/lib/seawall /var/cache/seawall /var/log/seawall 2>/dev/null; getent passwd seawall; pgrep -x seawall')
verdict "purged, nothing is left: $left" "$status" = 0 -a -z "$(sed '\#^/etc/seawall$#d' <<< "$left")"

echo "tests/deploy: $checks checks, $failed failed"
exit $((failed > 0))

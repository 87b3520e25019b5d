#!/bin/bash
# machine.sh - boots an ephemeral Debian 12 machine under its real systemd
# (PID 1), so that a .deb can be installed in it and looked at while it runs.
#
#   machine.sh check              can a machine be booted here? 0, or 77 and why not
#   machine.sh build              makes the base root, unless it is there already
#   machine.sh start NAME         boots an ephemeral copy; returns when it is up
#   machine.sh run NAME CMD...    runs CMD in the machine, as root; CMD's exit status
#   machine.sh copy NAME SRC DST  copies a file or folder of the host's to the machine
#   machine.sh fetch NAME SRC DST copies a file or folder of the machine's to the host
#   machine.sh outside NAME CMD.. runs CMD of the host at the other end of the
#                                 machine's cable: 10.77.0.1; the machine is 10.77.0.2
#                                 /disk in it is a folder on a disk of the host's
#   machine.sh reboot NAME        boots it again, with what it has written; returns when it is up
#   machine.sh console NAME       what the machine's console showed
#   machine.sh stop NAME          shuts it down in order, else by force
#   machine.sh list | stop-all    the machines that run; stops each
#   machine.sh with NAME CMD...   start, CMD (on the host), stop whatever happened
#
# Exit statuses of its own: 77 it can't be done on this host (not a failure of
# what is tested), 64 bad usage, 70 it could have been done but failed.
#
# How. Everything that a machine has is in namespaces of its own, two layers:
#
#   host ── supervise (bash) ── timeout ── unshare -m -n -p       "outer"
#             outer: mounts (the overlay on a tmpfs, a cgroup2 over the host's v1),
#                    the cable's near end (10.77.0.1), pid 1 = this script (inner)
#             └── systemd-nspawn -b ── systemd, PID 1             "leader"
#                    the cable's far end (10.77.0.2)
#
# so that when the outer's pid 1 ends, all processes, mounts and interfaces end
# with it, and nothing of it was ever to be seen in the host's own namespaces: no
# mount, no interface, no address, no route. What is left for the host to clean
# is a folder of the state and the cgroup that all of it is in, supervisor included,
# which is also the handle to kill it by.
# The base root is never written to. A machine has a longest life
# (SEAWALL_MACHINE_TTL seconds), so that a test that dies leaves none for ever.
set -u -o pipefail
umask 022

DIR=${SEAWALL_DEPLOY_DIR:-/var/tmp/seawall-deploy}
TTL=${SEAWALL_MACHINE_TTL:-1800}          # longest life of a machine, s
BOOT_TIME=${SEAWALL_MACHINE_BOOT:-60}     # longest time to boot, s
STOP_TIME=${SEAWALL_MACHINE_STOP:-20}     # longest orderly shutdown, s
SUITE=bookworm
PACKAGES=systemd,systemd-sysv,dbus,curl,procps,iproute2,python3-minimal,python3
PACKAGES+=,logrotate,adduser,openssl,ca-certificates,ssl-cert,strace,nginx-light
PACKAGES+=${SEAWALL_DEPLOY_PACKAGES:+,$SEAWALL_DEPLOY_PACKAGES}
SELF=$(readlink -f "$0")
HOST_IP=10.77.0.1 MACHINE_IP=10.77.0.2

say()  { echo "machine.sh: $*" >&2; }
cannot() { say "cannot boot a machine here: $*"; exit 77; }
fail() { say "$*"; exit 70; }
usage() { sed -n '5,19s/^# \{0,1\}//p' "$SELF" >&2; exit 64; }

# --- whether it can be done here -------------------------------------------

mirrors() { # the Debian mirrors of this host's apt, as "deb URI SUITE main" lines
  local lines
  if [ -n "${SEAWALL_DEPLOY_MIRROR:-}" ]; then
    echo "deb $SEAWALL_DEPLOY_MIRROR $SUITE main"; return
  fi
  lines=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' \
      'Created-By: Packages' 2>/dev/null |
    awk -v s=$SUITE '$3=="main" && $1 ~ /debian/ &&
      ($2==s || $2==s"-updates" || $2==s"-security") {print "deb " $1, $2, $3}' | sort -u)
  grep -q " $SUITE main" <<<"$lines" || lines="deb http://deb.debian.org/debian $SUITE main"
  echo "$lines"
}

check_tools() {
  [ "$(id -u)" = 0 ] || cannot "not root"
  local t
  for t in systemd-nspawn unshare nsenter ip setsid timeout flock tar; do
    command -v $t >/dev/null || cannot "no $t (apt-get install systemd-container util-linux iproute2)"
  done
  grep -qw cgroup2 /proc/filesystems || cannot "the kernel has no cgroup2"
  [ -n "$(cg2)" ] || cannot "no cgroup2 is mounted (mount -t cgroup2 none /sys/fs/cgroup/unified)"
  grep -qw overlay /proc/filesystems || modprobe overlay 2>/dev/null || cannot "the kernel has no overlayfs"
  # what the start needs, tried in namespaces that end with the try
  timeout 20 unshare -m -n -p -i -u -f --propagation private sh -ec '
    mount -t tmpfs none /mnt; mkdir /mnt/c /mnt/l /mnt/u /mnt/w /mnt/m
    mount -t cgroup2 none /mnt/c
    d=$(mktemp -d /mnt/c/seawall-try-XXXXXX); trap "rmdir $d" EXIT; test -e $d/cgroup.kill
    mount -t overlay -o lowerdir=/mnt/l,upperdir=/mnt/u,workdir=/mnt/w none /mnt/m
    ip link add seawall0 type veth peer name seawall1' >/dev/null 2>"$ERR" ||
    cannot "namespaces, cgroup2, overlayfs or veth refused: $(grep -v dmesg "$ERR" | tail -n 1)"
}

check_build() {
  command -v mmdebstrap >/dev/null || cannot "no mmdebstrap (apt-get install mmdebstrap)"
  [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || cannot "no debian-archive-keyring"
  local uri
  uri=$(mirrors | awk -v s=$SUITE '$3==s {print $2; exit}'); uri=${uri%/}
  # by apt's own method, so that its proxy settings count
  timeout 60 /usr/lib/apt/apt-helper -o Acquire::Retries=1 -o Acquire::http::Timeout=20 \
    -o Acquire::https::Timeout=20 download-file "$uri/dists/$SUITE/Release" \
    "$TMP/Release" >/dev/null 2>"$ERR" || cannot "the Debian mirror $uri does not answer"
}

# --- the base root ----------------------------------------------------------

# what the root is made of; another recipe is another root
recipe() { { echo 1 "$PACKAGES"; declare -f customize; } | sha256sum | cut -c1-16; }
base() { echo "$DIR/root-$(recipe)"; }

customize() { # in the new root: nothing runs that the tests don't need
  local root=$1
  systemctl --root="$root" --quiet mask apt-daily.timer apt-daily-upgrade.timer \
    apt-daily.service apt-daily-upgrade.service dpkg-db-backup.timer e2scrub_all.timer \
    e2scrub_reap.service fstrim.timer logrotate.timer systemd-tmpfiles-clean.timer \
    console-getty.service getty.target systemd-logind.service systemd-networkd.service \
    systemd-networkd.socket systemd-network-generator.service systemd-timesyncd.service \
    systemd-firstboot.service systemd-pstore.service systemd-udevd.service \
    systemd-udev-trigger.service systemd-hwdb-update.service || return
  systemctl --root="$root" --quiet disable nginx.service || return
  # not a "first boot": that would apply all presets again
  rm -f "$root/etc/machine-id"; systemd-machine-id-setup --root="$root" >/dev/null || return
  echo seawall-machine >"$root/etc/hostname"
  printf '127.0.0.1 localhost\n10.77.0.1 outside\n10.77.0.2 seawall-machine\n' >"$root/etc/hosts"
  : >"$root/etc/resolv.conf"
  # all that is logged is kept, in memory
  mkdir -p "$root/etc/systemd/journald.conf.d" || return
  printf '[Journal]\nStorage=volatile\nRateLimitIntervalSec=0\nForwardToConsole=no\n' \
    >"$root/etc/systemd/journald.conf.d/machine.conf"
  rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
}

build() {
  check_tools
  [ -e "$(base)/.machine-complete" ] && return 0
  mkdir -p "$DIR" || cannot "no folder $DIR"
  exec 9>"$DIR/build.lock"
  flock -w 600 9 || fail "another build still runs"
  [ -e "$(base)/.machine-complete" ] && { exec 9>&-; return 0; }
  check_build
  local new=$DIR/new.$$ log=$DIR/build.log proxy=() key value t0=$SECONDS
  rm -rf "$DIR"/new.* # of builds that died: the lock is ours
  NEW=$new
  for key in Acquire::http::Proxy Acquire::https::Proxy; do
    value=$(apt-config shell v "$key" | sed "s/^v='\(.*\)'$/\1/")
    [ -n "$value" ] && proxy+=(--aptopt="$key \"$value\"")
  done
  say "building the base root (about half a minute; log: $log)"
  # a list of mirrors as apt has them, signed by Debian's keys; no host keyring needed
  mirrors | timeout -k 10 900 mmdebstrap --mode=root --variant=apt --include="$PACKAGES" \
    --keyring=/usr/share/keyrings/debian-archive-keyring.gpg "${proxy[@]}" \
    --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Retries "3"' \
    --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Languages "none"' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    "$SUITE" "$new" - >"$log" 2>&1 9>&- ||
    { tail -n 5 "$log" >&2; fail "mmdebstrap failed (all of it: $log)"; }
  customize "$new" >>"$log" 2>&1 || fail "could not set up the root (see $log)"
  : >"$new/.machine-complete"
  mv "$new" "$(base)" || fail "could not keep the root"
  NEW=
  exec 9>&-
  say "base root built in $((SECONDS - t0)) s: $(base), $(du -sm "$(base)" | cut -f1) MiB"
}

# --- machines ---------------------------------------------------------------
# $DIR/machines/NAME holds: supervisor, outer, leader (pids with their start
# times, against pids used again), console

state() { echo "$DIR/machines/$1"; }
name_ok() { [[ ${1:-} =~ ^[a-z][a-z0-9-]{0,31}$ ]] || { say "bad name '${1:-}'"; exit 64; }; }

# "pid starttime", as kept; alive only while both are so
born() { local s; s=$(cat "/proc/$1/stat" 2>/dev/null) || return; s=${s##*) }; set -- $s; echo "${20}"; }
keep() { local b; b=$(born "$2") && [ -n "$b" ] && echo "$2 $b" >"$1"; }
alive() { # FILE: prints the pid if the process is the kept one and not a zombie
  local p b
  read -r p b <"$1" || return 1
  [ "$(born "$p")" = "$b" ] && ! grep -q '^State:.Z' "/proc/$p/status" 2>/dev/null && echo "$p"
} 2>/dev/null

cg2() { # the host's cgroup2 mount
  findmnt -rn -t cgroup2 -o TARGET | head -n 1
}
cgroup_of() { echo "$(cg2)/seawall-machine-$1"; }
cgroup_kill() { # all of the machine, supervisor and all, whatever state it is in
  local cg; cg=$(cgroup_of "$1")
  [ -e "$cg/cgroup.kill" ] && echo 1 >"$cg/cgroup.kill"
}
cgroup_remove() { # the machine's cgroups, which are empty once it has ended
  local cg i; cg=$(cgroup_of "$1")
  for ((i = 0; i < 100; i++)); do
    [ -d "$cg" ] || return 0
    find "$cg" -depth -type d -exec rmdir {} \; 2>/dev/null
    [ -d "$cg" ] || return 0
    sleep 0.05
  done
  say "cgroups of $1 are left: $cg"; return 1
}

supervise() { # in the background: the machine's whole life, then what is left of it
  local name=$1 st rc; st=$(state "$name")
  trap '' HUP INT
  grep -q "/seawall-machine-$name\$" /proc/self/cgroup || fail "not in the machine's cgroup"
  # TERM goes to all of the group: nspawn shuts the machine down in order
  timeout -k "$STOP_TIME" "$TTL" unshare -m -n -p -u -i -f --kill-child=KILL --propagation private \
    --mount-proc "$SELF" inner "$name" &
  wait $!; rc=$?
  echo "-- ended, status $rc"
  echo 0 >"$(cg2)/cgroup.procs" # out of what is removed now
  cgroup_remove "$name"
  : >"$st/ended"
}

inner() { # pid 1 of the outer namespaces
  local name=$1 lower far; lower=$(base)
  set -e
  hostname outside
  # the host's cgroup v1 is overmounted by a cgroup2, here only
  mount -t tmpfs -o mode=755,size=16m none /run
  umount -R -l /sys/fs/cgroup 2>/dev/null || true
  mount -t cgroup2 cgroup2 /sys/fs/cgroup
  # the machine's root: the base below, a tmpfs above
  mkdir /run/m
  mount -t tmpfs -o "mode=755,size=${SEAWALL_MACHINE_SIZE:-2g}" none /run/m
  mkdir /run/m/upper /run/m/work /run/m/root
  mount -t overlay -o "lowerdir=$lower,upperdir=/run/m/upper,workdir=/run/m/work" machine /run/m/root
  # the cable. No IPv6 autoconfiguration, nothing beyond the two ends.
  mkdir -p /run/netns
  ip netns add far
  far="ip netns exec far"
  sysctl -qw net.ipv6.conf.default.accept_ra=0 2>/dev/null || true
  ip link set lo up
  ip link add outside type veth peer name host0 netns far
  ip addr add $HOST_IP/24 dev outside
  ip link set outside up
  $far ip addr add $MACHINE_IP/24 dev host0
  $far ip link set host0 up
  $far ip link set lo up
  set +e
  local n status=133 # of a machine that wants to be booted again
  trap : TERM       # of the time's end: it goes to nspawn too, which shuts down in order
  while [ $status = 133 ]; do
    # its seccomp filter is off: a unit's own is to be seen, not nspawn's
    SYSTEMD_SECCOMP=0 SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 SYSTEMD_LOG_LEVEL=info \
      systemd-nspawn --quiet -b -D /run/m/root -M "$name" --register=no --keep-unit \
      --network-namespace-path=/run/netns/far --bind="$(state "$name")/disk:/disk" --resolv-conf=off --timezone=off \
      --link-journal=no --console=pipe </dev/null &
    n=$!
    wait $n; status=$?
    while kill -0 $n 2>/dev/null; do wait $n; status=$?; done # a trap had ended the first one
  done
  exit 0            # and with pid 1 all else
}

find_leader() { # OUTER: the host's pid of the machine's systemd
  local n p
  for n in $(cat "/proc/$1/task/$1/children" 2>/dev/null); do
    for p in $(cat "/proc/$n/task/$n/children" 2>/dev/null); do
      # three pid namespaces deep, number 1 there, and its init already executed
      [[ $(sed -n 's/^NSpid:\t//p' "/proc/$p/status" 2>/dev/null) =~ ^[0-9]+[[:space:]][0-9]+[[:space:]]1$ ]] &&
        [ "$(cat "/proc/$p/comm" 2>/dev/null)" = systemd ] && { echo "$p"; return 0; }
    done
  done
  return 1
}

start() {
  local name=$1 st end sup outer leader up t0; name_ok "$name"
  t0=${EPOCHREALTIME/./}
  build
  st=$(state "$name")
  alive "$st/supervisor" >/dev/null && fail "$name runs already"
  rm -rf "$st"; cgroup_kill "$name"; cgroup_remove "$name" || exit 70
  mkdir -p "$st/disk" || fail "no folder $st"
  STARTING=$name # from here on a failure stops it again
  # the longest times are handed on with the environment
  # In the machine's cgroup from its first moment, so that it can't be lost.
  mkdir "$(cgroup_of "$name")" || fail "could not make the cgroup of $name"
  { echo 0 >"$(cgroup_of "$name")/cgroup.procs" &&
    exec setsid "$SELF" supervise "$name"; } </dev/null >"$st/console" 2>&1 9>&- &
  sup=$!; disown $sup
  keep "$st/supervisor" $sup || fail "could not start the supervisor"
  end=$((SECONDS + BOOT_TIME)) leader=
  while [ $SECONDS -lt $end ]; do
    [ -e "$st/ended" ] && break
    # supervise > timeout > unshare > outer
    outer=$(cat /proc/$sup/task/$sup/children 2>/dev/null) &&
      outer=$(cat /proc/${outer%% *}/task/${outer%% *}/children 2>/dev/null) &&
      outer=$(cat /proc/${outer%% *}/task/${outer%% *}/children 2>/dev/null) &&
      outer=${outer%% *} && [ -n "$outer" ] &&
      keep "$st/outer" "$outer" && leader=$(find_leader "$outer") && keep "$st/leader" "$leader" &&
      [ -S "/proc/$leader/root/run/systemd/private" ] && break
    leader=
    sleep 0.05
  done
  [ -n "$leader" ] || { cat "$st/console" >&2; fail "$name did not come up"; }
  booted "$name" $end "$t0"
  STARTING=
}

booted() { # NAME END BEGUN: waits until its systemd says so
  local name=$1 end=$2 t0=$3 st up; st=$(state "$name")
  # told by systemd itself when the boot has ended; again while it isn't there to be asked
  while [ $SECONDS -lt $end ]; do
    up=$(timeout $((end - SECONDS)) "$SELF" run "$name" systemctl is-system-running --wait 2>/dev/null)
    case $up in running | degraded) break ;; esac
    sleep 0.1
  done
  case $up in
  running) ;;
  degraded) say "$name is degraded:"; "$SELF" run "$name" systemctl --failed --no-legend --plain >&2 ;;
  *) tail -n 20 "$st/console" >&2; fail "$name did not boot in $BOOT_TIME s (${up:-no answer})" ;;
  esac
  say "$name is up ($up) after $(((${EPOCHREALTIME/./} - t0) / 1000)) ms"
}

reboot() {
  local name=$1 st end t0 outer leader before; st=$(state "$name")
  t0=${EPOCHREALTIME/./} end=$((SECONDS + BOOT_TIME))
  before=$(leader_of "$name") || exit
  kill -s RTMIN+5 "$before" # systemd: reboot.target
  gone "$st/leader" "$STOP_TIME" || fail "$name does not shut down"
  outer=$(alive "$st/outer") || fail "$name has ended"
  while [ $SECONDS -lt $end ]; do
    leader=$(find_leader "$outer") && [ "$leader" != "$before" ] && keep "$st/leader" "$leader" &&
      [ -S "/proc/$leader/root/run/systemd/private" ] && break
    leader=
    sleep 0.05
  done
  [ -n "$leader" ] || fail "$name did not come up again"
  booted "$name" $end "$t0"
}

leader_of() { name_ok "$1"; alive "$(state "$1")/leader" || fail "no machine $1 runs"; }

run() {
  local name=$1 leader cg; shift
  leader=$(leader_of "$name") || exit
  # into its cgroups too, in one that no unit owns. Joined from inside: nsenter itself,
  # which waits outside, would be a pid 0 there, and systemctl status would stumble.
  cg=$(cgroup_of "$name")/payload
  [ -d "$cg" ] && mkdir -p "$cg/run" 2>/dev/null || fail "no cgroup of $name"
  # ends with us: a timeout around us leaves nothing behind
  exec nsenter -t "$leader" -m -u -i -n -p -C --root=/proc/$leader/root --wd=/proc/$leader/root -- \
    /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/root USER=root LOGNAME=root SHELL=/bin/bash LANG=C.UTF-8 TERM=dumb \
    SYSTEMD_PAGER=cat SYSTEMD_COLORS=0 DEBIAN_FRONTEND=noninteractive \
    /usr/bin/setpriv --pdeathsig KILL -- \
    /bin/sh -c 'echo $$ 2>/dev/null >/sys/fs/cgroup/run/cgroup.procs; exec "$@"' sh "$@"
}

outside() {
  local outer name=$1; shift; name_ok "$name"
  outer=$(alive "$(state "$name")/outer") || fail "no machine $name runs"
  exec nsenter -t "$outer" -n -- "$@"
}

copy() { # as cp -a does, but all is root's
  local name=$1 src=$2 dst=$3
  tar -C "$(dirname "$src")" -cf - -- "$(basename "$src")" |
    "$SELF" run "$name" sh -c 'set -e; t=$(mktemp -d); trap "rm -rf $t" EXIT
      tar -C $t --no-same-owner -xpf -; cp -a "$t/$1" "$2"' sh "$(basename "$src")" "$dst"
}
fetch() {
  local name=$1 src=$2 dst=$3 t rc=0
  t=$TMP/fetch; mkdir "$t"
  "$SELF" run "$name" tar -C "$(dirname "$src")" -cf - -- "$(basename "$src")" |
    tar -C "$t" --no-same-owner -xpf - && cp -a "$t/$(basename "$src")" "$dst"
}

gone() { # FILE SECONDS: waits until its process has ended
  local i
  for ((i = 0; i <= $2 * 20; i++)); do
    alive "$1" >/dev/null || return 0
    sleep 0.05
  done
  return 1
}

stop() {
  local name=$1 st p rc=0; name_ok "$name"; st=$(state "$name")
  [ -d "$st" ] || return 0
  if p=$(alive "$st/leader"); then
    kill -s RTMIN+4 "$p" # systemd: poweroff.target
    gone "$st/supervisor" "$STOP_TIME" || { say "$name did not shut down in $STOP_TIME s: by force"; rc=1; }
  fi
  # by force: nothing is there any more if it went in order
  cgroup_kill "$name"
  gone "$st/supervisor" 10 || { say "$name can't be ended"; return 70; }
  cgroup_remove "$name" || rc=70
  rm -rf "$st"
  return $rc
}

list() {
  local d
  for d in "$DIR"/machines/*/; do
    [ -d "$d" ] && basename "$d"
  done
  return 0
}

# --- what was asked for -----------------------------------------------------

STARTING= NEW= TMP= WITH=
cleanup() {
  local rc=$?
  trap - EXIT; trap '' INT TERM HUP
  [ -n "$STARTING" ] && stop "$STARTING" 2>/dev/null
  [ -n "$WITH" ] && stop "$WITH"
  [ -n "$NEW" ] && rm -rf "$NEW"
  [ -n "$TMP" ] && rm -rf "$TMP"
  exit $rc
}
cmd=${1:-}; [ $# -gt 0 ] && shift
case $cmd in
supervise | inner) [ $# = 1 ] || usage; "$cmd" "$1"; exit ;;
run | outside) [ $# -ge 2 ] || usage; "$cmd" "$@"; exit ;;
esac
trap cleanup EXIT; trap 'exit 129' HUP; trap 'exit 130' INT; trap 'exit 143' TERM
TMP=$(mktemp -d "${TMPDIR:-/tmp}/seawall-machine.XXXXXX") || exit 70
ERR=$TMP/err
case $cmd in
check)
  [ $# = 0 ] || usage; check_tools
  [ -e "$(base)/.machine-complete" ] || check_build
  ;;
build) [ $# = 0 ] || usage; build ;;
start) [ $# = 1 ] || usage; start "$1" ;;
copy | fetch) [ $# = 3 ] || usage; "$cmd" "$@" ;;
reboot) [ $# = 1 ] || usage; name_ok "$1"; reboot "$1" ;;
console) [ $# = 1 ] || usage; name_ok "$1"; cat "$(state "$1")/console" ;;
stop) [ $# = 1 ] || usage; stop "$1" ;;
list) list ;;
stop-all) rc=0; for m in $(list); do stop "$m" || rc=$?; done; exit $rc ;;
with)
  [ $# -ge 2 ] || usage; name=$1; shift
  start "$name"; WITH=$name
  "$@"
  ;;
*) usage ;;
esac

#!/usr/bin/env bash
# Puts Spillway in front of this node's kube-apiserver, and takes it away again. Run as root on a control-plane node, one
# node at a time. docs/install.md has the same steps by hand.
#
#   take-over.sh forward     kube-apiserver to loopback, Spillway to the node's address
#   take-over.sh back        the other way round
#   take-over.sh status      on which side this node is, and whether it is well there
#
#   --dry-run                say what would be done, and do nothing
#
# Both ways restart kube-apiserver once. Either comes to its end or is undone within five minutes; doing it twice does
# nothing the second time. Settings, from the environment:
set -euo pipefail

SPILLWAY=${SPILLWAY:-/usr/local/bin/spillway}           # the binary, on the host
CONFIG=${CONFIG:-/etc/spillway/config.yaml}
RUN_AS=${RUN_AS:-static-pod}                            # or: systemd (deploy/systemd, installed)
POD=${POD:-/etc/spillway/static-pod.yaml}               # deploy/static-pod.yaml with your image; for RUN_AS=static-pod
MANIFESTS=${MANIFESTS:-/etc/kubernetes/manifests}
KUBECONFIGS=${KUBECONFIGS:-/etc/kubernetes}
PATCHES=${PATCHES:-/etc/spillway/kubeadm-patches}       # deploy/kubeadm/patches
STATE=${STATE:-/etc/spillway/take-over}                 # what was before
PORT=${PORT:-6443}                                      # kube-apiserver's, and Spillway's main lane's
PATIENCE=${PATIENCE:-120}                               # seconds until it is undone, which takes at most UNDO more
UNDO=${UNDO:-100}

APISERVER=$MANIFESTS/kube-apiserver.yaml
OWN=$MANIFESTS/spillway.yaml
DRY=

say() { printf '%s [%3ds] %s\n' "$(date -u +%H:%M:%S)" "$SECONDS" "$*"; }
die() { say "STOPPED: $*" >&2; exit 1; }

# Runs a command that changes something, or says it.
do_() {
  if [ -n "$DRY" ]; then say "would: $*"; else "$@"; fi
}

install_() { "$SPILLWAY" install "$@" --manifest "$APISERVER" --config "$CONFIG"; }

check() {
  install_ --check "$@" --pod "$OWN" --kubeconfigs "$KUBECONFIGS" --patches "$PATCHES"
}

# Prints what listens on PORT other than on loopback, from the kernel's own tables (a wildcard is on every address).
outside() {
  local hex
  hex=$(printf '%04X' "$PORT")
  cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | awk -v port="$hex" '
    $4 == "0A" && $2 ~ (":" port "$") {
      address = substr($2, 1, length($2) - 5)
      if (address != "0100007F" && address != "00000000000000000000000001000000" &&
          address != "0000000000000000FFFF00000100007F") print address
    }'
}

# Waits until "$@" is true, for as many seconds as the first argument says.
within() {
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    [ "$SECONDS" -lt "$end" ] || { say "waited in vain: $what"; return 1; }
    sleep 0.2
  done
}

nobody_outside() { [ -z "$(outside)" ]; }
somebody_outside() { [ -n "$(outside)" ]; }
well() { check >"$REPORT" 2>&1 || [ $? -eq 1 ]; }
is_behind() { [ "$(install_ --print behind 2>/dev/null)" = "$(cat "$APISERVER")" ]; }

# The kubelet reads the folder at any moment: a file is there whole or not at all, and names with a dot are not read.
put() {
  local new
  new=$(dirname "$2")/.$(basename "$2").new
  install -m 0600 "$1" "$new" && mv -f "$new" "$2"
}

own_is_there() {
  case $RUN_AS in
    static-pod) [ -f "$OWN" ] ;;
    systemd) systemctl is-active --quiet spillway.service ;;
  esac
}

start_own() {
  case $RUN_AS in
    static-pod) do_ put "$POD" "$OWN" ;;
    systemd) do_ systemctl enable --now spillway.socket spillway.service ;;
  esac
}

stop_own() {
  case $RUN_AS in
    static-pod) do_ rm -f "$OWN" ;;
    systemd) do_ systemctl disable --now spillway.service spillway.socket ;;
  esac
}

# kube-apiserver's manifest by itself. The very file from before when nothing has changed since; after an upgrade the
# present one with the old bind address and probes, because the old file names the old release.
straight() {
  local before=$STATE/kube-apiserver.before.yaml
  if [ -f "$before" ] && cmp -s "$APISERVER" "$STATE/kube-apiserver.behind.yaml"; then
    cat "$before"
  elif [ -f "$before" ]; then
    install_ --print straight --was "$before"
  else
    install_ --print straight
  fi
}

forward() {
  if is_behind && own_is_there; then
    say "kube-apiserver is on loopback already and Spillway in place; looking whether all is well"
    well || { check || true; die "it is not; nothing was changed"; }
    return
  fi
  say "looking at the node"
  local verdict=0
  check --before || verdict=$?
  [ "$verdict" -lt 2 ] || die "fix what FAIL says and come back; nothing was changed"
  [ "$RUN_AS" != static-pod ] || [ -f "$POD" ] || die "there is no $POD; nothing was changed"

  local behind=$STATE/kube-apiserver.behind.yaml
  if [ -n "$DRY" ]; then
    install_ --print behind | diff -u "$APISERVER" - || true
  else
    is_behind || cp -p "$APISERVER" "$STATE/kube-apiserver.before.yaml"
    install_ --print behind >"$behind"
  fi
  say "kube-apiserver to loopback"
  do_ put "$behind" "$APISERVER"
  # From the moment the port is free Spillway answers: with 503 and 429 to come back, until kube-apiserver is up again.
  if [ -z "$DRY" ] && ! within "$PATIENCE" "kube-apiserver leaves the node's address" nobody_outside; then
    undo
  fi
  say "Spillway to the node's address"
  start_own
  [ -z "$DRY" ] || return 0
  within $((PATIENCE - SECONDS > 5 ? PATIENCE - SECONDS : 5)) "kube-apiserver and Spillway are well" well || undo
  grep -v '^ok' "$REPORT" || true
  say "done: Spillway is in front"
}

back() {
  if ! is_behind && ! own_is_there; then
    say "kube-apiserver is by itself already"
    return
  fi
  if [ -n "$DRY" ]; then
    straight | diff -u "$APISERVER" - || true
  else
    straight >"$STATE/kube-apiserver.straight.yaml"
  fi
  say "Spillway away: it ends its watches first, within listen.grace"
  stop_own
  # While Spillway has the port, kube-apiserver cannot start on every address.
  if [ -z "$DRY" ]; then
    within 30 "Spillway leaves the node's address" nobody_outside ||
      say "going on; should kube-apiserver find the port taken, the kubelet starts it again"
  fi
  say "kube-apiserver to the node's address"
  do_ put "$STATE/kube-apiserver.straight.yaml" "$APISERVER"
  [ -z "$DRY" ] || return 0
  within "$PATIENCE" "kube-apiserver is on the node's address" somebody_outside ||
    die "look at: crictl ps -a --name kube-apiserver; journalctl -u kubelet"
  say "done: kube-apiserver is by itself"
}

undo() {
  grep -A1 -e '^FAIL' "$REPORT" || true
  say "UNDOING: back to how it was"
  PATIENCE=$UNDO
  back
  die "not taken over; the node is as it was before. $REPORT says what was wrong"
}

status() {
  if is_behind; then say "kube-apiserver is on loopback"; else say "kube-apiserver is by itself"; fi
  check
}

usage() { sed -n '2,/^set -euo/{/^set -euo/!s/^# \{0,1\}//p}' "$0" >&2; exit 2; }

command=
for argument in "$@"; do
  case $argument in
    forward | back | status) command=$argument ;;
    --dry-run) DRY=yes ;;
    *) usage ;;
  esac
done
[ -n "$command" ] || usage
case $RUN_AS in static-pod | systemd) ;; *) die "RUN_AS is $RUN_AS, and may be static-pod or systemd" ;; esac
[ -x "$SPILLWAY" ] || die "$SPILLWAY is not there; it must be on the host as well as in the image: SPILLWAY=FILE"
[ -f "$APISERVER" ] || die "$APISERVER: not there; is this a control-plane node? MANIFESTS=FOLDER"
REPORT=/dev/null
if [ -z "$DRY" ] && [ "$command" != status ]; then
  [ -w "$MANIFESTS" ] || die "$MANIFESTS: not to be written by this user"
  (umask 077 && mkdir -p "$STATE")
  # Two at once would undo each other.
  exec 9>"$STATE/lock"
  flock -n 9 || die "another take-over is under way on this node"
  REPORT=$STATE/check.txt
  : >"$REPORT"
fi
"$command"

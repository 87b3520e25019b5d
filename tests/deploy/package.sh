#!/bin/bash
# What needs no machine: package.sh BINARY. The package by lintian, its pages by man, its completions by the shells that they are for.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd) binary=$(readlink -f "$1") work=$(mktemp -d) failed=0
trap 'rm -rf "$work"' EXIT
verdict() { if [ "$2" = 0 ]; then echo "ok    $1"; else echo "FAILED $1"; failed=1; fi; }
have() { command -v "$1" > /dev/null || { echo "skip  $1 is not installed: $2"; return 1; }; }

deb=$("$root/systemd/debian/build" "$binary" "$work" 0.1.0) || exit 1
if have lintian "the package is not looked at by it"; then
  said=$(lintian --allow-root --fail-on error "$deb" 2> /dev/null); status=$?
  echo "$said" | grep '^E:'
  verdict "lintian finds no errors" $status
fi
dpkg-deb -x "$deb" "$work/tree"
dead=$(cd "$work/tree/usr/share/doc/seawall" && find . -name '*.md' | while read -r page; do
  grep -o '](\([^)#]*\)' "$page" | sed 's/^](//' | grep -v -e '^$' -e '^[a-z]*:' | while read -r link; do
    [ -e "$(dirname "$page")/$link" ] || echo "$page: $link"; done; done)
[ -z "$dead" ] || echo "$dead"
verdict "no page of the package has a dead link" "$([ -z "$dead" ]; echo $?)"
if have man "its pages are not rendered"; then
  for page in "$work"/tree/usr/share/man/man?/*; do
    said=$(MANWIDTH=100 man -l --warnings=w "$page" 2>&1 > "$work/page") && [ -s "$work/page" ] || { echo "$page: $said"; false; }
    verdict "man renders $(basename "$page" .gz)" $?
  done
  MANWIDTH=100 man -l "$work"/tree/usr/share/man/man5/seawall.toml.5.gz 2> /dev/null | grep -q stale_while_revalidate
  verdict "seawall.toml(5) has the keys" $?
fi
share=$work/tree/usr/share
bash -c '. "$1"; COMP_WORDS=(seawall re); COMP_CWORD=1; _seawall seawall re seawall; [[ " ${COMPREPLY[*]} " == *" reload "* ]]' bash "$share/bash-completion/completions/seawall"
verdict "completions load in bash" $?
if have zsh "its completions are not loaded"; then
  zsh -fc "fpath=($share/zsh/vendor-completions \$fpath); autoload -U compinit && compinit -u -d $work/dump && whence -w _seawall && autoload +X _seawall" > /dev/null
  verdict "completions load in zsh" $?
fi
if have fish "its completions are not loaded"; then
  HOME=$work fish -c "source $share/fish/vendor_completions.d/seawall.fish; complete -C 'seawall re'" | grep -q '^reload'
  verdict "completions load in fish" $?
fi
exit $failed

#!/bin/sh
# Makes the manual pages and completions: manual.sh BINARY DIRECTORY. seawall.toml(5) is docs/configuration.md, whose tables
# become lists of keys, and whose links become words; it needs lowdown.
set -eu
binary=$1 to=$2 root=$(cd "$(dirname "$0")/.." && pwd)
for what in man bash zsh fish; do "$binary" generate "$what" --to "$to"; done
# A row of a table is a key, with what the other columns say of it; the heads of the columns but the last are said as well.
{ printf '# NAME\n\nseawall.toml - the configuration of seawall(1)\n\n'; awk '
    /^[|]---/ { for (i = 1; i <= count; i++) heads[i] = last[i]; in_table = 1; next }
    /^[|] / {
        line = $0; sub(/^[|] /, "", line); sub(/ [|]$/, "", line)
        count = split(line, cells, / [|] /)
        if (in_table) {
            gsub(/\\[|]/, "|", line); count = split(line, cells, / [|] /)
            text = cells[count]; between = ""
            for (i = 2; i < count; i++) between = between (between == "" ? "" : "; ") heads[i] ": " cells[i]
            print ""; print cells[1]; print ": " (between == "" ? "" : "(" between ") ") text
        } else for (i = 1; i <= count; i++) last[i] = cells[i]
        next
    }
    { in_table = 0; print }
' "$root/docs/configuration.md" | sed -E 's/\[([^]]*)\]\(#[^)]*\)/\1/g; s/\[([^]]*)\]\(([a-z-]*\.md)[^)]*\)/\1 (\2)/g'; } | lowdown -s -Tman -M section=5 -M title=seawall.toml -M volume="File Formats" -o "$to/seawall.toml.5" -

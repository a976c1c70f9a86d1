#!/bin/sh
# `make run`: benchd on a sample folder into which real audits are dropped, one by one.
# usage: BENCHD=path/to/benchd sample.sh FOLDER
set -eu
audits=$(dirname "$0")/audits
inbox=$1/inbox
mkdir -p "$inbox"
# What an earlier run has left would be answered already.
for name in llama4_many__default mistral4_flat__default llama4_many__pol_unknown trained_llama8__default llama32x7__default; do
    rm -f "$inbox/$name.json" "$inbox/$name.bench.json"
done

cat <<EOF
benchd watches $inbox; real audits are being dropped into it. While it runs, try in another terminal:

  # a drop of your own: $inbox/mine.bench.json appears
  cp $audits/llama4_one__default.json $inbox/mine.json

  # the same decision, explained
  $BENCHD explain $inbox/llama4_many__default.json

  # a broken audit: a report appears beside it, the rest goes on
  echo '{"oops": ' > $inbox/broken.json

  # take the folder away, and make it again
  rm -r $inbox; mkdir $inbox

Ctrl-C stops it (make then says "Interrupt", and means no harm).

EOF

drop() {
    for name in llama4_many__default mistral4_flat__default llama4_many__pol_unknown trained_llama8__default; do
        sleep 1
        cp "$audits/$name.json" "$inbox/" 2>/dev/null || :
    done
    sleep 1
    gzip -cd "$audits/llama32x7__default.json.gz" > "$inbox/llama32x7__default.json" 2>/dev/null || :
}
drop &
dropper=$!
trap 'kill "$dropper" 2>/dev/null || :' EXIT
# In the foreground, so that Ctrl-C reaches benchd itself; the shell waits for it and exits with its code.
trap : INT
"$BENCHD" watch "$inbox"

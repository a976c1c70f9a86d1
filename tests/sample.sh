#!/bin/sh
# `make run`: run benchd on a sample folder, and drop real audits into it one by one.
# usage: BENCHD=path/to/benchd sample.sh FOLDER
set -eu
audits=$(dirname "$0")/audits
inbox=$1/inbox
mkdir -p "$inbox"
# Remove the audits of an earlier run: they have their answers.
for name in llama4_many__default mistral4_flat__default llama4_many__pol_unknown trained_llama8__default llama32x7__default; do
    rm -f "$inbox/$name.json" "$inbox/$name.bench.json"
done

cat <<EOF
benchd watches $inbox, and this script drops five real audits into it. Try this in another terminal:

  # drop an audit yourself: $inbox/mine.bench.json appears
  cp $audits/llama4_one__default.json $inbox/mine.json

  # explain a decision
  $BENCHD explain $inbox/llama4_many__default.json

  # drop a broken audit: an error report appears beside it after two seconds
  echo '{"oops": ' > $inbox/broken.json

  # delete the folder, and create it again
  rm -r $inbox; mkdir $inbox

Ctrl-C stops benchd. make then reports "Interrupt", which is no error.

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
# benchd runs in the foreground, so that Ctrl-C reaches it. The shell waits for it and exits with its code.
trap : INT
"$BENCHD" watch "$inbox"

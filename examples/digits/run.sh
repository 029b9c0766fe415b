#!/usr/bin/env bash
# The whole chain on speech it makes itself; the body of `make demo`. Re-running resumes.
#   examples/digits/run.sh                       all stages, English
#   examples/digits/run.sh --lang cmn            Mandarin
#   examples/digits/run.sh --stage 2 --stop_stage 3
# Stages: 0 speech, 1 embeddings, 2 quantizer from them, 3 quantizer straight from audio,
#         4 codes with both quantizers, 5 a student with and one without codes, 6 table and report.
set -euo pipefail

stage=0
stop_stage=6
lang=en
num_utterances=600
num_audio=300       # utterances to train the quantizer on
num_labelled=160    # utterances whose text the students may use
steps=500           # of a student's training
gpu=                # device index or cpu; empty: a GPU if there is one
fast=false          # true: a tenth of the speech, for CI
exp=
while [ $# -gt 0 ]; do
  name=${1#--}
  case $name in
    stage|stop_stage|lang|num_utterances|num_audio|num_labelled|steps|gpu|fast|exp)
      [ $# -ge 2 ] || { echo "error: $1: a value is missing" >&2; exit 2; }
      printf -v "$name" %s "$2"; shift 2 ;;
    help|-h) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "error: $1: unknown option; see $0 --help" >&2; exit 2 ;;
  esac
done

here=$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")" && pwd)
root=$(dirname -- "$(dirname -- "$here")")
python=${PYTHON:-python3}
[ -x "$root/.venv/bin/python" ] && python=$root/.venv/bin/python
if [ "$fast" = true ]; then num_utterances=60 num_audio=40 num_labelled=20 steps=20; fi
exp=${exp:-$here/exp/$lang-$num_utterances}
list=$exp/speech/train/data.list
teacher=(--config "$root/conf/huggingface_whisper.yaml" --checkpoint "$here/teacher")
device=(${gpu:+--gpu "$gpu"})

run() { [ "$stage" -le "$1" ] && [ "$stop_stage" -ge "$1" ] && echo "== stage $1: $2"; }

if run 0 "make speech"; then
  "$python" "$here/make_speech.py" "$exp/speech" --lang "$lang" --num_utterances "$num_utterances"
fi
if run 1 "teacher embeddings of $num_audio utterances"; then
  "$root/save_embedding.sh" "${teacher[@]}" "${device[@]}" --train_data "$list" \
    --num_audio "$num_audio" --save_path "$exp/embedding.h5"
fi
if run 2 "quantizer from the embeddings"; then
  "$root/train_quantizer_offline.sh" --config "$root/conf/quantizer.yaml" "${device[@]}" \
    --embedding_path "$exp/embedding.h5" --save_path "$exp/offline"
fi
if run 3 "quantizer straight from the audio"; then
  "$root/train_quantizer_offline.sh" "${teacher[@]}" "${device[@]}" --train_quantizer_online \
    --train_data "$list" --num_audio "$num_audio" --save_path "$exp/online"
fi
if run 4 "codes of all utterances, those of the tests too, with both quantizers"; then
  for mode in offline online; do
    "$root/save_codebook.sh" "${teacher[@]}" "${device[@]}" --save_codebook \
      --train_data "$list" "$exp/speech/dev/data.list" \
      --quantizer_path "$exp/$mode/quantizer.pt" --save_path "$exp/$mode/codes.h5"
  done
fi
if run 5 "a student of text alone, and one of text and codes"; then
  "$python" "$here/hide_text.py" "$list" "$exp/student/data.list" --num_labelled "$num_labelled"
  student=(--config "$here/student.yaml" "${device[@]}" --max_steps "$steps"
    --train_data "$exp/student/data.list" --cv_data "$exp/speech/dev/data.list")
  "$root/train_distil.sh" "${student[@]}" --codebook_weight 0 --batch_seconds 30 \
    --save_path "$exp/student/text"
  "$root/train_distil.sh" "${student[@]}" --codebook_path "$exp/offline/codes.h5" \
    --save_path "$exp/student/codes"
  for name in text codes; do
    PYTHONPATH=$root "$python" -m k2distil evaluate "${device[@]}" --num_worst 0 \
      --student_checkpoint "$exp/student/$name/last" --train_data "$exp/speech/test/data.list" \
      --save_path "$exp/student/$name.json"
  done
fi
if run 6 "table and report"; then
  PYTHONPATH=$root "$python" -m k2distil report --save_path "$exp/report.html" \
    --path "$exp/offline" "$exp/offline/codes.h5" "$exp/student/text" "$exp/student/codes"
  "$python" "$here/table.py" "$exp"
fi

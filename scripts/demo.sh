#!/usr/bin/env bash
# The main job: MEDS -> tokens -> two pretrained models -> features -> few-shot evaluation -> report.
# Every line is a command that a user would type; MEDS=path replaces the synthetic cohort.
set -euo pipefail
cd "$(dirname "$0")/.."
UV=${UV:-uv} OUT=${OUT:-demo} MEDS=${MEDS:-}
begin=$SECONDS
run() {
  echo "\$ $*"
  "$UV" run --no-sync "$@"
}
step() {
  printf '\n[%s/7] %s  (%d s so far)\n' "$1" "$2" $((SECONDS - begin))
}

step 1 "The cohort"
risks=()
if [ -z "$MEDS" ]; then
  MEDS=$OUT/meds
  run ehr-tokenize synth -c configs/synth/demo.yaml --risks --workers 2 --out "$MEDS" --overwrite
  risks=(--risks "$MEDS/risks")
fi
run ehr-tokenize check "$MEDS"

step 2 "Tokens"
run ehr-tokenize --meds "$MEDS" --out "$OUT/tokens" -c configs/tokenize/joint.yaml --overwrite

step 3 "BEHRT, masked-language modelling, two processes"
run ehr-train --tokens "$OUT/tokens" --out "$OUT/runs/behrt" --nproc 2 \
  -c configs/train/behrt-mlm.yaml --overwrite

step 4 "GPT-2, next-token prediction, two processes"
run ehr-train --tokens "$OUT/tokens" --out "$OUT/runs/gpt2" --nproc 2 \
  -c configs/train/gpt2-clm.yaml --overwrite

step 5 "Labels and features, nothing after a prediction time visible"
run ehr-eval labels --meds "$MEDS" --out "$OUT/labels" -s rows_per_subject=2 --overwrite
for model in behrt gpt2; do
  run ehr-eval features --checkpoint "$OUT/runs/$model" --tokens "$OUT/tokens" \
    --labels "$OUT/labels" --out "$OUT/features/$model" --overwrite
done
run ehr-eval counts --meds "$MEDS" --labels "$OUT/labels" --out "$OUT/features/counts" --overwrite

step 6 "Few-shot evaluation beside the count baseline"
run ehr-eval ehrshot --labels "$OUT/labels" -c configs/eval/demo.yaml \
  --features behrt="$OUT/features/behrt" --features gpt2="$OUT/features/gpt2" \
  --features counts="$OUT/features/counts" ${risks[@]+"${risks[@]}"} \
  --out "$OUT/results" --overwrite

step 7 "Every artifact verified, and the results traced to the raw data"
run ehr-track verify "$OUT"
run ehr-track lineage "$OUT/results" --in "$OUT" --in "$MEDS"

printf '\nDone in %d s. The report: %s\n' $((SECONDS - begin)) "$OUT/results/report.html"

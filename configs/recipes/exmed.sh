#!/usr/bin/env bash
# From patients in JSON and a CSV file of outcomes to a pretrained and a fine-tuned ExMed-BERT.
#   configs/recipes/exmed.sh PATIENTS.json OUTCOMES.csv OUT
# OUTCOMES.csv has the columns patient_id, date and label, a row a patient (or several, by date).
#   CODES=dir        start codes from ClinVec vectors
#   SET="a.b=c ..."  settings of both trainings, e.g. SET="optim.epochs=3 data.context=256"
set -euo pipefail
patients=${1:?patients in JSON} outcomes=${2:?a CSV file of outcomes} out=${3:?a folder to write}
configs=$(cd "$(dirname "$0")/.." && pwd)
start=() settings=()
for setting in ${SET:-}; do settings+=(-s "$setting"); done

ehr-tokenize from patients-json "$patients" --out "$out/meds"
ehr-tokenize --meds "$out/meds" --out "$out/tokens" -s scheme.kind=visits
if [ -n "${CODES:-}" ]; then
  ehr-models init --kind exmed_bert --size small --tokens "$out/tokens" --codes "$CODES" --out "$out/start"
  start=(--init "$out/start")
fi
ehr-train --tokens "$out/tokens" --out "$out/runs/pretrained" -c "$configs/train/exmed-bert-mlm.yaml" \
  ${start[@]+"${start[@]}"} ${settings[@]+"${settings[@]}"}
ids=$out/meds/metadata/source_subjects.parquet # only there where ids are text
ehr-train --tokens "$out/tokens" --init "$out/runs/pretrained" --out "$out/runs/finetuned" \
  --labels "$outcomes" -s labels.subject=patient_id -s labels.time=date -s labels.value=label \
  $([ -f "$ids" ] && echo -s "labels.subjects=$ids") \
  -c "$configs/train/finetune.yaml" ${settings[@]+"${settings[@]}"}

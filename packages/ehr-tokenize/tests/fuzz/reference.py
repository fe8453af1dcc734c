"""What must come of a case, in plain Python: subject by subject, event by event."""

import math
import re
from collections import Counter

from .cases import DAY, Case, Row
from .faults import FIRST, LAST, SPECIALS

NOTHING_LEFT = r"vocabulary\.exclude leaves no event of train"
SPLITS = ("train", "tuning", "held_out")
BIRTH = re.compile(r"MEDS_BIRTH(//|$)", re.ASCII)


def refusals(case: Case) -> list[str]:
    """Patterns of the lines of which one must come; none where the case must be tokenised."""
    found = list(case.refused)
    owner: dict[int, str] = {}
    for file in case.files:
        above = None
        for i, row in enumerate(file.rows):
            found += [rf"/{re.escape(file.name)} row {i}: {w}" for w in wrong(row, above)]
            if above is None or above.subject != row.subject:
                if row.subject in owner:
                    found += again(row.subject, owner[row.subject], file.name, i)
                owner[row.subject] = file.name
            above = row
    subjects = owner.keys() - {None}
    splits = split_of(case)
    lost = [s for s in subjects if s not in splits]
    found += [rf"subject {s} has no split in .*subject_splits" for s in lost]
    if not any(splits.get(s) == "train" for s in subjects):
        found.append(f"none of the {len(subjects)} subjects is in the train split")
    if not found:
        found += ["cannot be told from another token"] * bool(twins(case))
        train = [r for r in case.rows if splits[r.subject] == "train"]
        if all(excluded(case, r) for r in train):
            found.append(NOTHING_LEFT)
    return found


def wrong(row: Row, above: Row | None) -> list[str]:
    """Of one row below another."""
    found = []
    if row.subject is None:
        found.append("subject_id is null")
    if row.code is None:
        found.append("code is null")
    if row.code == "":
        found.append("code is empty")
    if isinstance(row.code, bytes):
        found.append("code is not UTF-8")
    if isinstance(row.code, str) and "\x1f" in row.code:
        found.append(r"code holds the character U\+001F")
    if row.time is not None and not FIRST <= row.time <= LAST:
        found.append("time is not in the years 1 to 9999")
    if above is not None and above.subject == row.subject and above.time is not None:
        if row.time is None:
            found.append(f"a row without time comes after a row with one, in subject {row.subject}")
        elif row.time < above.time:
            found.append(f"time is before that of the row above, in subject {row.subject}")
    return found


def again(subject: int | None, first: str, second: str, row: int) -> list[str]:
    if first == second:
        return [rf"/{second} row {row}: subject {subject} begins again after other subjects"]
    pair = rf"({first} and .*{second}|{second} and .*{first})"
    return [rf"subject {subject} is in two files: .*{pair}"]


def split_of(case: Case) -> dict[int, str]:
    if case.splits is not None:
        return case.splits
    found = {}
    for subject in {r.subject for r in case.rows if r.subject is not None}:
        x = (subject + 0x9E3779B97F4A7C15) % 2**64
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        share = ((x ^ x >> 31) >> 11) / 2**53
        found[subject] = "train" if share < 0.8 else "tuning" if share < 0.9 else "held_out"
    return found


def records(case: Case) -> dict[int, list[Row]]:
    found: dict[int, list[Row]] = {}
    for row in case.rows:
        found.setdefault(row.subject, []).append(row)
    return dict(sorted(found.items()))


def excluded(case: Case, row: Row) -> bool:
    return any(re.search(p, row.code) for p in case.config.vocabulary.exclude)


def bin_edges(case: Case) -> dict[str, list[float]]:
    values: dict[str, list[float]] = {}
    splits = split_of(case)
    for row in case.rows:
        known = row.value is not None and math.isfinite(row.value)
        if known and splits[row.subject] == "train" and not excluded(case, row):
            values.setdefault(row.code, []).append(row.value)
    n = case.config.numeric.n_bins
    found = {}
    for code, own in values.items():
        own.sort()
        if len(own) >= case.config.numeric.min_values:
            ranked = {own[k * len(own) // n] for k in range(1, n)}
            found[code] = sorted(ranked - {own[0]})
    return {code: edges for code, edges in found.items() if edges}


def spell(row: Row, edges: dict[str, list[float]]) -> tuple[str, str, int | None]:
    """Text, code and bin."""
    if row.code not in edges or row.value is None or math.isnan(row.value):
        return row.code, row.code, None
    number = 1 + sum(edge <= row.value for edge in edges[row.code])
    return f"{row.code}//Q{number}", row.code, number


def vocabulary(case: Case) -> list[dict]:
    """Rows behind the specials."""
    edges, splits = bin_edges(case), split_of(case)
    events, people = Counter(), {}
    for row in case.rows:
        if splits[row.subject] == "train" and not excluded(case, row):
            word = spell(row, edges)
            events[word] += 1
            people.setdefault(word, set()).add(row.subject)
    rows = []
    for word, count in sorted(events.items(), key=lambda x: (-x[1], x[0][0])):
        text, code, number = word
        bounds = [-math.inf, *edges.get(code, []), math.inf]
        rows.append(
            {
                "token": text, "code": code, "bin": number,
                "lower": bounds[number - 1] if number else None,
                "upper": bounds[number] if number else None,
                "count": count, "subjects": len(people[word]),
            }
        )  # fmt: skip
    return rows


def twins(case: Case) -> bool:
    texts = [*SPECIALS, *(v["token"] for v in vocabulary(case))]
    return len(set(texts)) < len(texts)


def tell(case: Case, rows: list[Row], edges: dict, known: set) -> list[tuple]:
    """(token, time, age, visit) of one subject, event by event."""
    told = [("[BOS]", None, 0.0, 0)]
    born = first = last = began = None
    visit = 0
    for row in rows:
        if excluded(case, row):
            continue
        word, t = spell(row, edges), row.time
        text = word[0] if word in known else "[UNK]"
        if t is None:
            told.append((text, None, 0.0, 0))
            continue
        is_birth = bool(BIRTH.match(row.code))
        first = t if first is None else first
        born = t if is_birth and born is None else born
        if not is_birth:
            admitted = re.match(r"(HOSPITAL_ADMISSION|ADMISSION|ED_REGISTRATION)(//|$)", row.code)
            if last is None or t - last > DAY or (admitted and began != t):
                visit, began = visit + 1, t
            last = t
        told.append((text, t, (t - (first if born is None else born)) / DAY, visit))
    return told


def family(code: str) -> str:
    head = code.split("/")[0]
    return head if "/" in code and head else "(no prefix)"

"""A task file in words: its question, when it is asked and of whom, what answers it, which codes it needs."""

from collections.abc import Sequence

from ehr_eval.tasks.files import TaskFile
from ehr_eval.tasks.patterns import CodePattern, EventPattern, History


def page_of(task: TaskFile, place: str, lacking: dict[str, str] | None = None) -> str:
    """Markdown.

    Args:
        task: The task.
        place: Where its file is.
        lacking: What a data set lacks of its codes, if one was looked at.
    """
    rows = [
        ("asked", asked(task)),
        ("of whom", _whom(task)),
        ("yes", _yes(task)),
        ("until", _until(task)),
    ]
    rows += [("no answer", "where nothing of `given` comes")] if task.given else []
    rows.append(("censored rows", _CENSORED[task.censored]))
    if alone := task.for_labels_alone():
        rows.append(("futures", f"cannot tell it ({alone}): for labels alone"))
    lines = [f"# {task.name}", "", task.doc, "", "| | |", "|---|---|"]
    lines += [f"| {name} | {told} |" for name, told in rows if told]
    lines += ["", "**Codes.**", ""]
    lines += [f"- {name}: {_codes(patterns)}" for name, patterns in task.groups().items()]
    if lacking is not None:
        lacks = ", ".join(f"{name} ({told})" for name, told in lacking.items())
        lines += ["", f"**This data set** {f'lacks {lacks}' if lacks else 'has what it takes'}."]
    lines += [
        "",
        f"**From.** {task.source or 'not said'}",
        "",
        f"**Checked.** {task.checked or 'not said'}",
    ]
    lines += ["", f"Version {task.version}, in {place}."]
    return "\n".join(lines)


_CENSORED = {
    None: "as the setting `censored` says",
    "exclude": "left out; death ends a window",
    "exclude_dead": "left out, where death ended the window, too",
    "negative": "negative",
}


def asked(task: TaskFile) -> str:
    """When, in a few words."""
    start = task.start
    of = "record" if start.until is None else "stay"
    if start.at == "random":
        times = "a moment" if start.count == 1 else f"{start.count} moments"
        return f"{times} of each subject{'' if of == 'record' else ' in a stay'}, by hash"
    if start.at == "every":
        every = "hour" if start.every_hours == 1 else f"{start.every_hours:g} hours"
        return f"every {every} of a {of}" + (f", from {start.hours:g} h on" if start.hours else "")
    if start.until is None:
        before = f"{start.minutes_before:g} min before" if start.minutes_before else "at"
        return f"{before} each of its codes"
    side = "begins" if start.at == "begin" else "ends"
    if start.end_of_day:
        return f"at 23:59 of the day a stay {side}"
    if start.hours:
        return f"{start.hours:g} h after a stay {side}"
    return f"when a stay {side}"


def answered(task: TaskFile) -> str:
    """What answers yes, in a few words."""
    if task.stay_days is not None:
        return f"a stay of {task.stay_days:g} days or longer"
    if task.answer != "yes":
        return f"the {task.answer} of {task.given[0].said()}"
    first = (task.outcome or task.together[0])[0].said()
    short = first if len(first) <= 40 else f"{first[:39]}…"
    return f"none of {short}" if task.absent else short


def _whom(task: TaskFile) -> str:
    start, found = task.start, []
    if start.history_days is not None:
        found.append(f"{start.history_days:g} days of record or more")
    if start.active_days is not None:
        found.append(f"something recorded in the last {start.active_days:g} days")
    if start.min_age is not None or start.max_age is not None:
        found.append(
            f"aged {start.min_age or 0:g} to {'any' if start.max_age is None else f'{start.max_age:g}'}"
        )
    if start.longer_than_hours is not None:
        found.append(f"stays longer than {start.longer_than_hours:g} h")
    found += ["any of `require`"] * bool(task.require) + ["none of `exclude`"] * bool(task.exclude)
    if task.onset == "new":
        found.append("no outcome so far")
    elif task.onset == "both":
        found.append(f"no outcome so far; with one, in recurrence.{task.name}")
    return "; ".join(found)


def _yes(task: TaskFile) -> str:
    if task.answer != "yes":
        return f"neither: the answer is the {task.answer} of the first of `given`"
    if task.stay_days is not None:
        return f"the stay lasts {task.stay_days:g} days or longer"
    what = "the last of all groups of `together`" if task.together else "any of `outcome`"
    words = "none of `outcome` comes" if task.absent else f"{what} comes"
    if task.window == "moment":
        words += " at that very moment"
    if task.window == "next":
        words += " in the next stay"
    if task.from_days is not None:
        words += f", {task.from_days:g} days later or more"
    return words + (f"; severity 1 to {len(task.grades) + 1}" if task.grades else "")


def _until(task: TaskFile) -> str:
    found = [f"{task.horizon_days:g} days"] if task.horizon_days is not None else []
    found += ["the first of `stop`"] * bool(task.stop) + ["the first of `given`"] * bool(task.given)
    return " or ".join(found)


def _codes(patterns: Sequence[CodePattern]) -> str:
    return " or ".join(f"`{_whole(pattern)}`" for pattern in patterns)


def _whole(pattern: CodePattern) -> str:
    """As `said`, with what else it takes."""
    more = []
    if isinstance(pattern, EventPattern):
        if pattern.units:
            more.append("in " + ", ".join(pattern.units))
        if pattern.text:
            more.append(f"text {pattern.text}")
        if pattern.min_age is not None:
            more.append(f"from age {pattern.min_age:g}")
        if pattern.during:
            more.append(f"during {pattern.during.code}")
    if isinstance(pattern, History):
        if pattern.times > 1:
            more.append(f"{pattern.times} times")
        if pattern.days is not None:
            more.append(f"within {pattern.days:g} days")
        if pattern.since != "record":
            more.append(f"since the {'stay began' if pattern.since == 'stay' else 'stay ended'}")
    return "; ".join([pattern.said(), *more])

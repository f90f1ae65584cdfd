"""What a run leaves behind: `results.md`, the tables it is made of, and logs and dumps, compressed."""

import csv
import datetime
import json
import tarfile

# Of one file, and of what is compressed into it: more takes too long.
MOST_BYTES = 15 << 20
MOST_RAW_BYTES = 160 << 20


def read(path):
    """The whole rows of a table, each a dict: the process that wrote it may have been ended within one."""
    with open(path, newline="") as lines:
        rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [row for row in rows if None not in row.values()]


def statuses(path):
    """The lines of `status.jsonl`; of a stage that ran more than once in a half the last one counts."""
    return list({(line["half"], line["name"]): line for line in lines(path)}.values())


def lines(path):
    """The lines of `status.jsonl` without those that a kill or a full disk has torn, which are told."""
    read = []
    for number, line in enumerate(path.read_text(errors="replace").splitlines() if path.exists() else [], 1):
        try:
            line = json.loads(line)
            read.append({**line, "half": line["half"], "name": line["name"], "outcome": line["outcome"]})
        except (ValueError, TypeError, KeyError):
            print(f"{path}, line {number}: torn, and left out")
    return read


def markdown(columns, rows):
    """A table; `rows` are lists of texts."""
    lines = [columns, ["---"] * len(columns), *rows]
    return (
        "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
        + "\n"
    )


def stages(status):
    rows = [
        [
            line["half"],
            line["name"],
            line["outcome"],
            f"{line['seconds']:.1f}",
            line.get("detail", "").split("\n")[0][:160],
        ]
        for line in status
    ]
    text = markdown(["half", "stage", "outcome", "s", ""], rows)
    failed = [f"- {line['name']}: {', '.join(line['failed'])}" for line in status if line.get("failed")]
    return text + ("\nTests that failed:\n\n" + "\n".join(failed) + "\n" if failed else "")


def modules(rows):
    if not rows:
        return ""
    refused = [row for row in rows if row["error"]]
    spilled = [row for row in rows if not row["error"] and int(row["local_bytes"])]
    times = sorted({row["variant"]: float(row["compile_ms"]) for row in rows}.values())
    text = f"{len(times)} variants with {len(rows)} kernels: {sum(times) / 1e3:.1f} s of compiling in all, "
    text += f"{times[len(times) // 2]:.0f} ms at the median, {times[-1]:.0f} ms at most. "
    text += f"{len(refused)} refused, {len(spilled)} with memory for what does not fit into registers.\n"
    columns = ["variant", "entry", "registers", "local_bytes", "blocks_per_multiprocessor", "error"]
    shown = [[row[column] for column in columns] for row in refused + spilled]
    return text + ("\n" + markdown(columns, shown) if shown else "")


def checks(rows):
    """By operation and way: how many are right, and the worst of them."""
    if not rows:
        return ""
    groups = {}
    for row in rows:
        groups.setdefault((row["sizes"], row["operation"], row["path"]), []).append(row)
    shown = []
    for key, group in groups.items():
        right = [row for row in group if row["verdict"] == "right"]
        worst = max(
            (float(row["worst"]) / float(row["allowed"]) for row in right if float(row["allowed"])), default=0
        )
        skipped = sum(row["verdict"] == "skipped" for row in group)
        shown.append([*key, len(right), len(group) - len(right) - skipped, skipped, f"{worst:.2f}"])
    columns = [
        "sizes",
        "operation",
        "by",
        "right",
        "wrong",
        "skipped",
        "worst of the right, of what is allowed",
    ]
    text = markdown(columns, shown)
    wrong = [row for row in rows if row["verdict"] not in ("right", "skipped")]
    columns = ["operation", "case", "path", "worst", "allowed", "verdict", "text"]
    shown = [[row[column][:200] for column in columns] for row in wrong]
    return text + ("\n" + markdown(columns, shown) if shown else "")


def speeds(ours, theirs, ceilings):
    """Ours beside PyTorch's, replay against replay."""
    if not ours:
        return ""
    text = ""
    if ceilings:
        shown = [[row["what"], row["rate"], row["unit"]] for row in ceilings]
        text += markdown(["ceiling", "rate", ""], shown) + "\n"
    peers = {row["name"]: row for row in theirs}
    rows = []
    for row in ours:
        peer = peers.get(f"{row['operation']} {row['case']}")
        ratio = (
            [peer["ms"], peer["variant"], f"{float(peer['ms']) / float(row['ms']):.2f}"]
            if peer and peer["ms"]
            else [""] * 3
        )
        name = f"{row['operation']} {row['case']}"
        share = f"{100 * float(row['share']):.0f} %"
        rows.append([name, row["path"], row["ms"], f"{row['rate']} {row['unit']}", share, *ratio])
    columns = [
        "operation",
        "by",
        "Reverie, ms",
        "rate",
        "of the ceiling",
        "PyTorch, ms",
        "its fastest way",
        "ratio",
    ]
    return text + markdown(columns, rows) + "\nA ratio above 1 means that Reverie is faster.\n"


def trace(rows):
    """Time by kernel."""
    if not rows:
        return ""
    groups = {}
    for row in rows:
        count, time = groups.get((row["entry"], row["variant"]), (0, 0.0))
        groups[row["entry"], row["variant"]] = (count + 1, time + float(row["ms"]))
    total = sum(time for _, time in groups.values())
    order = sorted(groups.items(), key=lambda group: -group[1][1])
    shown = [
        [entry, variant, count, f"{time:.3f}", f"{100 * time / total:.1f} %"]
        for (entry, variant), (count, time) in order[:25]
    ]
    head = (
        f"{len(rows)} launches, {total:.3f} ms together, each from an event before it to one behind it.\n\n"
    )
    return head + markdown(["kernel", "variant", "launches", "ms", "share"], shown)


def environment(folder):
    path = folder / "environment.md"
    return path.read_text() if path.exists() else ""


def write(results, tables, emulated=False):
    """`results.md` of what there is in `status.jsonl` and the tables."""
    table = {path.stem: read(path) for path in sorted(tables.glob("*.tsv"))}

    def get(name):
        return table.get(name, [])

    all_checks = [row for name, rows in table.items() if name.startswith("checks-") for row in rows]
    pictures = tables / "pictures.md"
    sections = {
        "Stages": stages(statuses(results / "status.jsonl")),
        "Compiled by the driver": modules(get("modules")),
        "Operations against the CPU": checks(all_checks),
        "Operations, replayed from graphs": speeds(get("speeds"), get("peers"), get("ceilings")),
        "Pictures": pictures.read_text() if pictures.exists() else "",
        "A step of the UNet": trace(get("trace")),
    }
    where = "On an emulated driver: its times mean nothing" if emulated else "On a GPU"
    text = f"# {where}, {datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d}\n\n{environment(tables)}"
    text += "".join(f"\n## {title}\n\n{body}" for title, body in sections.items() if body)
    (results / "results.md").write_text(text)
    return text


def pack(archive, folder):
    """All files of a folder into one archive, but for those that do not fit; their names."""
    files = sorted(
        (path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
    )
    left_out = []
    while sum(path.stat().st_size for path in files) > MOST_RAW_BYTES:
        left_out.append(files.pop().name)
    while files:
        with tarfile.open(archive, "w:xz", preset=1) as out:
            for path in files:
                out.add(path, path.relative_to(folder))
        if archive.stat().st_size <= MOST_BYTES:
            break
        left_out.append(files.pop().name)
    if not files:
        archive.unlink(missing_ok=True)
    return left_out

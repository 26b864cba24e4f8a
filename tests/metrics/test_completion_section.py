"""The section of training completions: what it shows of which steps, and that texts stay texts."""

from html.parser import HTMLParser

from segr1_jax.metrics import completion_section as section
from segr1_jax.metrics.completion_section import completion_section

HOSTILE = "</td></details><script>alert(1)</script>"


def record(step: int, **changes) -> dict:
    fields = {"step": step, "position": 3, "name": "cat.png", "instruction": None, "number": 0}
    fields |= {"text": f"answer of {step}", "total": 1.25, "own_term": 0.5, "parse": "ok"}
    return fields | changes


class Read(HTMLParser):
    """Texts of the cells, of the summaries, and every tag."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.stack, self.cells, self.summaries, self.tags = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.stack.append(tag)
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        where = {"bdi": self.cells, "td": self.cells, "summary": self.summaries}
        where.get(self.stack[-1], []).append(data)


def test_every_step_has_its_completions_with_each_term_of_the_reward():
    records = [record(1), record(1, text="another", total="nan"), record(4, instruction="left")]
    read = Read(completion_section(lambda: records))
    assert read.summaries == ["step 1: 2 completions", "step 4: 1 completions"]
    assert read.cells[:5] == ["cat.png", "1.25", "0.5", "ok", "answer of 1"]
    assert read.cells[5:10] == ["cat.png", "nan", "0.5", "ok", "another"]
    assert read.cells[10] == "cat.png left"
    assert read.stack == []


def test_what_came_from_outside_stays_text():
    hostile = dict.fromkeys(("name", "instruction", "text", "parse", "total"), HOSTILE)
    read = Read(completion_section(lambda: [record(1, **hostile)]))
    assert (read.stack, "script" in read.tags) == ([], False)
    assert read.cells[-1] == HOSTILE


def test_of_a_long_run_steps_of_every_part_are_shown(monkeypatch):
    monkeypatch.setattr(section, "MOST_RECORDS", 10)
    text = completion_section(lambda: (record(step) for step in range(100) for _ in range(2)))
    shown = [int(summary.split()[1][:-1]) for summary in Read(text).summaries]
    assert shown == [0, 24, 49, 74, 99]
    assert "5 of 100 logged steps" in text


def test_without_completions_there_is_no_section():
    assert completion_section(lambda: []) == ""

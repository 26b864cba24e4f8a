"""The paper's tables: which row is the result, and what is said of sets that are not whole."""

from html.parser import HTMLParser

from segr1_jax.eval.paper_tables import SuiteCell, filled, suite_tables
from segr1_jax.metrics.report_page import write_report
from segr1_jax.metrics.tables import figures_table, markdown


class Rows(HTMLParser):
    """Classes of rows and cells, with the cells' texts."""

    def __init__(self, page: str):
        super().__init__()
        self.rows, self._cell = [], None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.rows.append((dict(attributes).get("class"), []))
        self._cell = dict(attributes).get("class", "") if tag == "td" else None

    def handle_data(self, data):
        if self._cell is not None:
            self.rows[-1][1].append((data, self._cell))


def rows_of(tmp_path, *tables):
    write_report(tmp_path / "page.html", "page", tables, {}, [])
    return Rows((tmp_path / "page.html").read_text()).rows[1:]


def toy_table(**whole):
    """The first table of the paper: of its first set 4 samples are there, the others are whole."""
    table = suite_tables()[0]
    figures = dict.fromkeys(table.columns, 0.5)
    ours = {key: SuiteCell(figures, 9, present=9, published=9) for key in table.sets}
    ours[table.sets[0]] = SuiteCell(figures, 4, present=4, published=2026)
    titles = {name: name for name, _ in table.sets}
    return table, filled(table, ours, titles)


def test_a_set_that_is_not_whole_is_marked_and_grayed(tmp_path):
    table, made = toy_table()
    columns = len(table.columns)
    assert "(4 of 2,026)" in markdown([made])
    mark, cells = rows_of(tmp_path, made)[-1]
    assert mark == "result"
    assert cells[1][0].endswith("(4 of 2,026)")
    assert [kind for _, kind in cells] == [
        "",
        *["partial"] * columns,
        *[""] * (len(cells) - 1 - columns),
    ]
    assert "of 2,026" not in "".join(text for text, _ in cells[1 + columns :])


def test_the_row_of_the_policy_is_bold_and_no_other(tmp_path):
    rows = {"after GRPO": {"iou": 0.8}, "prompt from the ground truth": {"iou": 0.9}}
    found = rows_of(tmp_path, figures_table("Held-out set", rows, result="after GRPO"))
    assert [(mark, cells[0][0]) for mark, cells in found] == [
        ("result", "after GRPO"),
        (None, "prompt from the ground truth"),
    ]

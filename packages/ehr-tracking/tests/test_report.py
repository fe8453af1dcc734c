from html.parser import HTMLParser
from pathlib import Path

from ehr_tracking.report import figure, html_page, line_plot, text_table

SERIES = {"counts": [(1, 0.5), (8, 0.6)], "behrt": [(1, 0.55), (8, 0.7)]}


def test_a_plot_is_a_png_and_the_same_figures_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        line_plot(
            tmp_path / name, SERIES, title="t", x="k", y="AUROC", log_x=True,
            bands={"behrt": [(0.5, 0.6), (0.65, 0.75)]},
        )  # fmt: skip
    assert (tmp_path / "a.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_page_is_self_contained_and_escapes_text(tmp_path: Path) -> None:
    line_plot(tmp_path / "a.png", SERIES, title="t", x="k", y="AUROC")
    page = html_page("<Report>", [figure(tmp_path / "a.png", "a & b")])
    found: dict[str, str] = {}

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            found[tag] = dict(attrs).get("src", "")

    Reader().feed(page)
    assert found["img"].startswith("data:image/png;base64,iVBOR")
    assert "&lt;Report&gt;" in page
    assert "http" not in page.replace("http-equiv", "")


def test_an_empty_table_is_empty_text() -> None:
    assert text_table([]) == ""

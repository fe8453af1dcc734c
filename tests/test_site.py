"""The documentation as a site: built without a network, whole, and asking for nothing from elsewhere."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\((docs/guides/[^)]+)\.md\)")
FETCHED = {"link": "href", "script": "src", "img": "src", "iframe": "src", "source": "src"}
"""What a browser gets by itself: tag -> attribute."""


class Page(HTMLParser):
    """What a page fetches, where it leads and which places it has."""

    def __init__(self, path):
        super().__init__()
        self.path, self.fetched, self.links, self.places = path, [], [], {""}
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.places.add(given.get("id") or "")
        if tag in FETCHED and given.get(FETCHED[tag]):
            self.fetched.append(given[FETCHED[tag]])
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory, offline):
    out = tmp_path_factory.mktemp("docs") / "site"
    command = [*offline, sys.executable, ROOT / "scripts/docs.py", "--no-reference", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return {path: Page(path) for path in out.rglob("*.html")}


def test_a_site_fetches_nothing_from_elsewhere(site):
    assert len(site) > 60
    assert {url for page in site.values() for url in page.fetched if urlsplit(url).netloc} == set()
    folder = min(site, key=lambda path: len(path.parts)).parent
    styles = [style.read_text() for style in folder.rglob("*.css")]
    assert styles
    asked = {
        url for css in styles for url in re.findall(r"(?:@import|url\()\s*[\"']?([^\"')]+)", css)
    }
    assert {url for url in asked if urlsplit(url).netloc} == set()


def test_all_links_of_a_site_lead_somewhere(site):
    broken = []
    for path, page in site.items():
        for link in [*page.links, *page.fetched]:
            to = urlsplit(link)
            if to.scheme or path.name == "404.html":
                continue
            target = (path.parent / unquote(to.path)).resolve() if to.path else path
            target = target / "index.html" if target.is_dir() else target
            place = (
                unquote(to.fragment) if target in site and not to.fragment.startswith("__") else ""
            )
            if not target.is_file() or (target in site and place not in site[target].places):
                broken.append((path.name, link))
    assert broken == []


def test_every_page_of_the_tree_is_on_the_site(site):
    folder = min(site, key=lambda path: len(path.parts)).parent
    told = {page.relative_to(ROOT) for page in ROOT.glob("docs/**/*.md")}
    made = {path.relative_to(folder) for path in site}
    names = {
        page.parent / ("index.html" if page.stem == "README" else f"{page.stem}.html")
        for page in told
    }
    assert names - made == set()
    front = dict.fromkeys(site[folder / "index.html"].links)
    guides = {f"docs/guides/{page.stem}.html" for page in ROOT.glob("docs/guides/*.md")}
    assert guides <= front.keys()
    top = LINK.findall((ROOT / "README.md").read_text().split("\n## ")[1])
    assert {f"{guide}.html" for guide in top} == guides

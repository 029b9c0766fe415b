"""A page is whole, safe and the same for the same content."""

from xml.etree import ElementTree

import numpy as np

from k2distil.report import Page, bars, curves, histogram, image


def plots() -> list[str]:
    return [
        curves({"a": [(1, 2.0), (3, 1.0)], "b": [(1, 1.0)]}, "step", "nats", level=("top", 3.0)),
        bars([0.5, 0.25], "codebook", "share"),
        histogram([1.0, 2.0, 2.5], "seconds", "utterances"),
        image(np.arange(12).reshape(3, 4), "seconds", "codebook", 0.08),
    ]


def test_plots_are_svg_with_their_words_and_the_same_each_time():
    words = [("step", "nats", "top", "b"), ("codebook", "share"), ("seconds",), ("seconds",)]
    for svg, again, expected in zip(plots(), plots(), words, strict=True):
        assert svg == again
        tree = ElementTree.fromstring(svg)  # well-formed
        texts = {"".join(each.itertext()).strip() for each in tree.iter()}
        assert set(expected) <= texts


def test_a_page_escapes_what_users_write():
    page = Page("a < b")
    page.section("<script>")
    page.facts({"名字": '<b>"', "n": 12345, "x": 0.123456, "done": True}, folded="more & more")
    page.table(["key", "reason"], [["utt<1>", "no such file"]])
    page.warning("5 > 4")
    page.plot(plots()[1], "a & b")
    html = page.html
    assert html.startswith("<!doctype html>")
    assert "<script>" not in html
    assert "<title>a &lt; b</title>" in html
    assert "<td>名字</td><td>&lt;b&gt;&quot;</td>" in html
    assert "<td>12,345</td>" in html
    assert "<td>0.1235</td>" in html
    assert "<td>true</td>" in html
    assert "<summary>more &amp; more</summary>" in html
    assert "<td>utt&lt;1&gt;</td><td>no such file</td>" in html
    assert '<p class="warning">5 &gt; 4</p>' in html
    assert "<figcaption>a &amp; b</figcaption>" in html

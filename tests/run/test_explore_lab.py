"""`make explore` in JupyterLab and a real browser: choose, compute, change, upload what is no image, cancel."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import nbformat
import pytest
from PIL import Image

from lib import ROOT

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium"),
]
PORT = 18766
PATIENCE = 300_000  # milliseconds, in which anything is done on a slow and busy machine


@pytest.fixture(scope="module")
def notebook(tmp_path_factory) -> Path:
    """The notebook as far as the explorer, in a folder of its own, with results there."""
    folder = tmp_path_factory.mktemp("explore")
    document = nbformat.read(ROOT / "notebooks" / "explore.ipynb", as_version=4)
    sources = [cell.source for cell in document.cells]
    shown = next(place for place, source in enumerate(sources) if source.endswith("\nexplorer"))
    document.cells = document.cells[: shown + 1]
    for cell in document.cells:
        cell.source = cell.source.replace('output: str = "."', f'output: str = "{folder}"')
    nbformat.write(document, folder / "explore.ipynb")
    return folder / "explore.ipynb"


@pytest.fixture(scope="module")
def address(notebook):
    """Where JupyterLab shows the notebook, its token included."""
    options = f"--notebook {notebook} --no-browser --port={PORT} --allow-root"
    command = ["make", "explore", f"PY={sys.executable}", "WORKERS=1", f"LAB={options}"]
    own = {name: str(notebook.parent / "jupyter") for name in ("JUPYTER_CONFIG_DIR", "JUPYTERLAB_WORKSPACES_DIR")}
    how = {"cwd": ROOT, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    own |= {"JUPYTER_PREFER_ENV_PATH": "1", "PYTHONPATH": str(ROOT)}  # the notebook lies elsewhere, lib is this one
    with subprocess.Popen(command, env=os.environ | own, **how) as process:
        try:
            said = ""
            while not (found := re.search(r"http://(?:127\.0\.0\.1|localhost):(\d+)/lab\S*\?token=(\w{40,})", said)):
                line = process.stderr.readline()
                assert line, said
                said += line
            threading.Thread(target=process.stderr.read, daemon=True).start()  # a full pipe would stop it
            yield f"http://127.0.0.1:{found[1]}/lab/tree/explore.ipynb?token={found[2]}"
        finally:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def page(address):
    with sync_api.sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 2400})
        page.set_default_timeout(PATIENCE)
        page.goto(address)
        page.locator(".jp-NotebookPanel").wait_for()
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()  # what is run before there is a kernel is dropped
        page.locator(".lm-MenuBar-itemLabel", has_text="Run").click()
        page.locator('.lm-Menu-itemLabel:text-is("Run All Cells")').click()
        failed = page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']")
        button(page, "Compute").or_(failed).first.wait_for()
        assert button(page, "Compute").is_visible(), failed.all_inner_texts()
        yield page
        browser.close()


def button(page, name: str):
    return page.locator(".jp-OutputArea button.jupyter-button", has_text=name)


def chosen(page, label: str):
    return page.get_by_label(label, exact=True)


def compute(page) -> None:
    button(page, "Compute").click()


def numbers(page):
    return page.locator(".widget-html-content table")


def said(page, words: str) -> None:
    page.locator(".widget-html-content").get_by_text(words).wait_for()


def images(page) -> list[str]:
    """Addresses of what is to be seen: the images that are chosen, maps and curves."""
    return [each.get_attribute("src") for each in page.locator("img.widget-image:visible").all()]


def pictures(page) -> list[str]:
    return images(page)[1:]


def upload(page, file: Path) -> None:
    with page.expect_file_chooser() as chooser:
        button(page, "Upload images").click()
    chooser.value.set_files(file)


def test_choose_compute_change_upload_cancel(page, tmp_path):
    (shown,) = images(page)
    compute(page)
    said(page, "Done in")
    first = pictures(page)
    assert len(first) == 2
    assert numbers(page).get_by_text("IG + IDGI").count() == 1

    chosen(page, "path").select_option(label="Blur IG")
    chosen(page, "images").select_option(index=[3, 4])
    page.wait_for_function("before => document.querySelector('img.widget-image').src != before", arg=shown)
    compute(page)
    numbers(page).get_by_text("Blur IG + IDGI").first.wait_for()
    second = pictures(page)
    assert set(first).isdisjoint(second)

    bad = tmp_path / "holiday.jpg"
    bad.write_text("This is no image.")
    upload(page, bad)
    said(page, "holiday.jpg cannot be used: it is not an image")
    assert chosen(page, "images").locator("option", has_text="holiday").count() == 0
    assert pictures(page) == second

    good = tmp_path / "gradient.png"
    Image.linear_gradient("L").save(good)
    upload(page, good)
    said(page, "Added and chosen: gradient.png.")
    compute(page)
    numbers(page).get_by_text("gradient.png").first.wait_for()
    third = pictures(page)

    chosen(page, "images").select_option(index=list(range(20)))  # half a minute, or more
    compute(page)
    said(page, "Computing")
    page.wait_for_timeout(1500)
    button(page, "Cancel").click()
    said(page, "Cancelled at")
    said(page, "The results below are the last complete ones.")
    assert pictures(page) == third
    chosen(page, "images").select_option(index=[0])
    compute(page)
    said(page, "Done in")

"""Key figures read as one line and are found again in an executed notebook."""

import numpy as np
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook, new_output

from arcvq.reports import KeyFigure, key_figure
from arcvq.reports.key_figures import key_figures


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (24.58765, "usage: 24.6 dB"),
        (206, "usage: 206 dB"),
        (torch.tensor(0.5), "usage: 0.5 dB"),
        (np.int64(3), "usage: 3 dB"),
        (float("nan"), "usage: nan dB"),
        ("all", "usage: all dB"),
    ],
)
def test_a_key_figure_reads_as_one_line(capsys, value, line):
    key_figure("usage", value, "dB")
    assert capsys.readouterr().out.strip() == line


def test_a_key_figure_without_a_unit_ends_with_its_value():
    assert str(KeyFigure("codes used", 512)) == "codes used: 512"


def test_percent_follow_their_number_without_a_space():
    assert str(KeyFigure("nearest codes kept", 53.16, "%")) == "nearest codes kept: 53.2%"


def test_a_key_figure_is_found_again_in_the_metadata_of_its_output():
    figure = KeyFigure("PSNR", 25.0, "dB")
    data, metadata = figure._repr_mimebundle_()
    assert data == {"text/plain": "PSNR: 25 dB"}
    shown = new_output("display_data", data, metadata=metadata)
    printed = new_output("stream", text="something else")
    notebook = new_notebook(cells=[new_code_cell(outputs=[printed, shown])])
    assert key_figures(notebook) == [figure]

"""Plotly figures in a notebook that come also on a busy machine, and leave a still behind."""

from copy import deepcopy
from typing import Any

import anywidget
import ipywidgets as widgets
import traitlets
from ipywidgets.widgets.widget import widget_serialization
from plotly.graph_objects import Figure, FigureWidget
from plotly.offline import get_plotlyjs

from arcvq.explorers.bundle import WEB, bundle
from arcvq.explorers.stills import Still


class LiveFigure(FigureWidget):
    """A figure whose changes reach its views in the browser, of which `FigureView` is one.

    Its model in the browser is one of the notebook's own. To a model of anywidget, nothing comes
    through any more where the page was busy in the two seconds after its start.

    Args:
        figure: What it shows at first.
    """

    _esm = ""  # plotly's own script of 5 MB for each figure
    _model_name = traitlets.Unicode("DOMWidgetModel").tag(sync=True)
    _model_module = traitlets.Unicode("@jupyter-widgets/base").tag(sync=True)
    _model_module_version = traitlets.Unicode("2.0.0").tag(sync=True)
    _view_name = traitlets.Unicode(None, allow_none=True).tag(sync=True)
    still_name = traitlets.Unicode().tag(sync=True)
    _config: Any

    def __init__(self, figure: Figure):
        super().__init__(figure)
        self._config = self._config | {"displaylogo": False, "showSendToCloud": False}
        self._still = Still()
        self.on_msg(self._receive)

    def show_still(self) -> None:
        """Keep a picture of the figure in the notebook, for when there is no kernel."""
        self.still_name = self._still.show()

    def close(self) -> None:
        self._still.clear()
        super().close()

    def _receive(self, _: Any, content: Any, buffers: Any) -> None:
        """Answer a view: it made a still, or it missed what changed before it was there."""
        if content == "whole":
            with self.hold_sync():
                self._widget_layout = deepcopy(self._layout)
                self._widget_data = deepcopy(self._data)
            self.send("whole")
        else:
            self._still.update(**content["still"])

    def _repr_mimebundle_(self, *args: Any, **kwargs: Any) -> Any:
        return Figure(self)._repr_mimebundle_(*args, **kwargs)


class FigureView(anywidget.AnyWidget):
    """Shows a figure, and gives the sliders beside it names and the button its action.

    Args:
        figure: What it shows.
        copy_button: Copies its `code` to the clipboard.
    """

    _esm = f"{bundle('figure')}\nexport default {{ render: figureModule.render }};"
    _css = (WEB / "style.css").read_text()
    figure = traitlets.Instance(LiveFigure).tag(sync=True, **widget_serialization)
    copy_button = traitlets.Instance(widgets.Button).tag(sync=True, **widget_serialization)
    script = traitlets.Unicode().tag(sync=True)

    def __init__(self, figure: LiveFigure, copy_button: widgets.Button):
        # By name and not as a widget, since closing this one must leave the script to the others.
        script = f"IPY_MODEL_{_script().model_id}"
        # The class now, since what is sent later may not reach a model of anywidget.
        classes = ["arcvq-figure"]
        super().__init__(
            figure=figure, copy_button=copy_button, script=script, _dom_classes=classes
        )


class Script(widgets.Widget):
    """plotly.js, which goes to the browser once for all figures."""

    source = traitlets.Unicode().tag(sync=True)


_SCRIPTS: list[Script] = []


def _script() -> Script:
    """The script, sent again only after somebody has closed it."""
    if not (_SCRIPTS and _SCRIPTS[-1].comm):
        _SCRIPTS.append(Script(source=get_plotlyjs()))
    return _SCRIPTS[-1]

from tests.old_plotly import colors_of_plotly_6_1  # noqa: F401
